"""Checkpoints that a disk has damaged, and which ones stay."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import small
from test_run import Config

from experiments import checkpoints as command
from r1jax import manifest, peers
from r1jax import run as runs
from r1jax.checkpoint import Checkpoints, Keep
from r1jax.checks import InputError
from r1jax.run import Run

ABSTRACT = {
    "a": jax.ShapeDtypeStruct((40,), np.float32),
    "b": {"c": jax.ShapeDtypeStruct((2, 3), np.int32)},
}


def state(step):
    return {
        "a": np.linspace(step, 2 * step, 40, dtype=np.float32),
        "b": {"c": np.full((2, 3), step, np.int32)},
    }


ALL = Keep(9)


def save(folder, steps, keep=ALL):
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), small.CONFIG, {"position": 10 * step})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("made") / "checkpoints"
    save(folder, [1, 2])
    return folder


def files_of(made):
    return sorted(p.relative_to(made) for p in (made / "2").rglob("*") if p.is_file())


def restored(folder):
    """(step, what was said) of what is read, which must be what was saved at that step."""
    said = []
    with Checkpoints(folder, say=said.append) as checkpoints:
        step, got, note = checkpoints.restore(ABSTRACT, small.CONFIG)
    jax.tree.map(np.testing.assert_array_equal, got, state(step))
    assert note["position"] == 10 * step
    return step, said


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_byte_in_any_file_never_is_a_wrong_restore(made, tmp_path, where):
    """Of the newest: either the one before is read, which is said, or one line says why not."""
    passed_over = 0
    files = files_of(made)
    assert len(files) > 8
    for index, name in enumerate(files):
        folder = tmp_path / str(index)
        shutil.copytree(made, folder)
        data = bytearray((folder / name).read_bytes())
        at = {"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[where]
        data[at] ^= 1
        (folder / name).write_bytes(data)
        try:
            step, said = restored(folder)
        except InputError as error:
            assert "cannot be read" in str(error)
            continue
        assert (step, len(said)) in ((2, 0), (1, 1))
        if step == 1:
            assert str(folder / "2") in said[0] and "is damaged" in said[0]
            passed_over += 1
        else:  # what says nothing of the state
            assert name.name in manifest.LATER
    assert passed_over >= len(files) - 2


def test_a_flipped_byte_in_the_checksums_is_not_said_of_another_file(made, tmp_path):
    folder = shutil.copytree(made / "2", tmp_path / "2")
    assert manifest.damage(folder) == ("whole", "")
    path = folder / manifest.NAME
    whole = path.read_bytes()
    for at in range(len(whole)):
        for flip in (1, 1 << 4):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            state, wrong = manifest.damage(folder)
            assert state == "damaged" and wrong.startswith(manifest.NAME), (at, wrong)


@pytest.mark.parametrize("how", ["short", "missing", "empty manifest"])
def test_a_torn_one_is_passed_over(made, tmp_path, how):
    folder = shutil.copytree(made, tmp_path / "x")
    largest = max((folder / "2" / "state").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    if how == "short":
        largest.write_bytes(largest.read_bytes()[:-1])
    elif how == "missing":
        largest.unlink()
    else:
        (folder / "2" / manifest.NAME).write_text("")
    step, [said] = restored(folder)
    assert step == 1 and said.startswith(f"warning: {folder / '2'} is damaged")


def test_one_without_checksums_is_read(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "x")
    (folder / "2" / manifest.NAME).unlink()
    assert restored(folder) == (2, [])


def run(out, steps, said=None, **changes):
    cfg = Config(out=str(out), checkpoint_every=1, **changes)
    return Run(cfg, small.CONFIG, steps, say=(said if said is not None else []).append)


def train(one):
    got = one.restore(ABSTRACT)
    for step in one.steps():
        one.log(step, {"loss": 1.0})
        one.end_step(state(step + 1), {})
    return got


def test_one_is_due_after_so_many_minutes_as_after_so_many_steps(tmp_path, monkeypatch):
    """Steps of 25 s: after more than a minute since the last, every fifth, and at the end."""
    clock, out = [0.0], tmp_path / "run"
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    cfg = Config(out=str(out), checkpoint_every=5, checkpoint_minutes=1, checkpoint_keep=99)
    with Run(cfg, small.CONFIG, 11, say=lambda _: None) as one:
        for step in one.steps():
            clock[0] += 25
            one.log(step, {"loss": 1.0})
            one.end_step(state(step + 1), {})
    assert [one.step for one in command.found_in(out)] == [3, 5, 8, 10, 11]


def corrupt(out, step):
    path = out / "checkpoints" / str(step) / "note" / "metadata"
    path.write_bytes(b"x" + path.read_bytes()[1:])


def test_a_process_whose_writing_fails_says_so_where_the_others_would_wait(tmp_path, monkeypatch):
    """In the background, in which each would wait for the other for twenty minutes."""
    told = []
    pod = SimpleNamespace(give_up=lambda *what: told.append(what))
    monkeypatch.setattr(peers, "_peers", pod)
    model = small.config()
    with Checkpoints(tmp_path / "whole", Keep()) as whole:
        whole.save(1, {"a": np.ones(3)}, model, {})
        whole.wait()
        assert whole.newest() == 1 and not told

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    with Checkpoints(tmp_path / "full", Keep()) as torn:
        torn.save(1, {"a": np.ones(3)}, model, {})
        with pytest.raises(OSError, match="No space left"):
            torn.wait()
        assert torn.newest() is None
    assert told and set(told) == {
        ("a checkpoint was not written: OSError: [Errno 28] No space left on device", 2)
    }


def test_a_run_goes_on_from_the_one_before_and_keeps_the_damaged_one_beside(tmp_path):
    out, said = tmp_path / "run", []
    with run(out, 3) as one:
        train(one)
    corrupt(out, 3)
    with run(out, 4, said, resume="yes") as one:
        assert one.first == 2
        got, _ = train(one)
    jax.tree.map(np.testing.assert_array_equal, got, state(2))
    assert any("is damaged" in line for line in said) and "resumed from step 2" in said
    assert (out / "damaged_checkpoint_3").is_dir()
    assert [one.step for one in command.found_in(out)] == [3, 4]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(tmp_path):
    out = tmp_path / "run"
    with run(out, 2) as one:
        train(one)
    before = (out / "metrics.jsonl").read_bytes()
    corrupt(out, 1)
    corrupt(out, 2)
    for how in ("auto", "yes", "no"):
        with (
            pytest.raises(InputError, match="every checkpoint is damaged"),
            run(out, 2, resume=how),
        ):
            pytest.fail("it began")
    assert (out / "metrics.jsonl").read_bytes() == before
    with (
        Checkpoints(out / "checkpoints") as found,
        pytest.raises(InputError, match="checkpoints: every checkpoint is damaged"),
    ):
        found.restore(ABSTRACT, small.CONFIG)


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_which_ones_stay(tmp_path):
    values = {3: 0.5, 5: 0.9, 7: 0.8}
    save(tmp_path / "a", range(1, 10), Keep(2))
    save(tmp_path / "b", range(1, 10), Keep(1, every=4))
    save(tmp_path / "c", range(1, 10), Keep(1, values=lambda: values))
    assert [steps(tmp_path / name) for name in "abc"] == [[8, 9], [4, 8, 9], [5, 9]]


@pytest.mark.parametrize(("best", "kept"), [("score", [2, 5, 6]), ("-score", [1, 5, 6])])
def test_a_run_keeps_its_best(tmp_path, best, kept):
    """Whose value comes with the step after it; also over a restart."""
    out, score = tmp_path / "run", [0.0, 0.1, 0.9, 0.3, 0.5, 0.4, 0.5]
    for resume, total in (("no", 4), ("yes", 6)):
        cfg = Config(out=str(out), checkpoint_every=1, resume=resume, checkpoint_best=best)
        with Run(cfg, small.CONFIG, total, say=lambda _: None) as one:
            one.restore(ABSTRACT)
            for step in one.steps():
                one.log(step, {"loss": 1.0, "score": score[step] if step else None})
                one.end_step(state(step + 1), {})
    assert steps(out / "checkpoints") == kept


# The command.


@pytest.fixture
def listed(tmp_path):
    out = tmp_path / "run"
    save(out / "checkpoints", range(1, 7))
    rows = [{"step": step, "score": value} for step, value in enumerate([0, 0.1, 0.7, 0.2, 0.3])]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def test_they_are_listed_and_verified(listed, capsys):
    command.main([str(listed)])
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all("kB" in line and "files" in line for line in lines)
    command.main([str(listed), "--verify"])
    assert all(line.endswith("whole") for line in capsys.readouterr().out.splitlines())
    corrupt(listed, 4)
    (listed / "checkpoints" / "5" / manifest.NAME).unlink()
    with pytest.raises(InputError, match=r"damaged: step 4"):
        command.main([str(listed), "--verify"])
    said = capsys.readouterr().out.splitlines()
    assert "damaged: note/metadata has another checksum" in said[3] and "unchecked" in said[4]


def test_they_are_pruned(listed, capsys):
    corrupt(listed, 6)
    command.main([str(listed), "--prune=newest:1,every:3,best:score"])
    assert steps(listed / "checkpoints") == [2, 3, 5]
    assert "step       2" in capsys.readouterr().out
    assert restored(listed / "checkpoints") == (5, [])
    command.main([str(listed), "--prune=best:-score"])
    assert steps(listed / "checkpoints") == [3]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--prune=newest:0", "--prune=newest:0: expected newest:N"),
        ("--prune=oldest:1", "--prune=oldest:1: expected"),
        ("--prune=best:absent", "has no absent"),
        ("--prune=every:100", "would remove every checkpoint"),
        ("--verfy", "Unrecognized options: --verfy"),
    ],
)
def test_what_is_refused_removes_nothing(listed, flag, said):
    with pytest.raises(InputError, match=said):
        command.main([str(listed), flag])
    assert steps(listed / "checkpoints") == [1, 2, 3, 4, 5, 6]


def test_nothing_is_pruned_under_a_run(listed):
    from r1jax.lock import locked

    with locked(listed), pytest.raises(InputError, match="a run is under way in it"):
        command.main([str(listed), "--prune=newest:1"])
    assert steps(listed / "checkpoints") == [1, 2, 3, 4, 5, 6]


def test_that_none_is_left_is_no_success(listed):
    for step in steps(listed / "checkpoints"):
        shutil.rmtree(listed / "checkpoints" / str(step))
    command.main([str(listed)])
    with pytest.raises(InputError, match="no complete checkpoint"):
        command.main([str(listed), "--verify"])


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="no checkpoints in this folder"):
        command.main([str(tmp_path)])
