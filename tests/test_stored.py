"""Checkpoints in another folder, and in a bucket of an emulated object store."""

import json
import os
import shutil
from contextlib import contextmanager

import fsspec
import jax
import numpy as np
import object_store
import pytest
import small
import tiny_run
from etils import epath
from test_checkpoints import ABSTRACT, state, train
from test_run import Config
from two_processes import R1_ZERO, finish, start

from experiments import checkpoints as command
from experiments import cli
from r1jax import manifest, stored
from r1jax.checkpoint import Checkpoints
from r1jax.checks import InputError
from r1jax.lock import locked
from r1jax.peers import LOST_PEER
from r1jax.run import Run


def run(out, to, steps, **changes):
    """What was restored, and what was said."""
    said = []
    cfg = Config(out=str(out), checkpoint_to=to, checkpoint_every=1, **changes)
    with Run(cfg, small.CONFIG, steps, say=said.append) as one:
        got = train(one)
    return got, said


def same(got, step):
    jax.tree.map(np.testing.assert_array_equal, got, state(step))


def steps(out):
    return [one.step for one in command.found_in(out)]


# What is refused.


@pytest.mark.parametrize("scheme", ["s3", "az", "http"])
def test_a_scheme_that_is_not_written_to_is_one_line(tmp_path, scheme):
    to = f"{scheme}://bucket/run"
    with pytest.raises(InputError, match=f"--checkpoint-to={to}: checkpoints go to folders and"):
        run(tmp_path / "run", to, 2)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_orbax_does_not_write_s3():
    """Or else it is time that this does."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    with pytest.raises(ValueError, match="Checkpoint path should be absolute"):
        tensorstore_utils.build_kvstore_tspec("s3://bucket/run", "a")


@pytest.mark.parametrize(
    ("to", "said"),
    [("kept", "expected a folder's whole path"), ("gs://", "expected gs://BUCKET/PATH")],
)
def test_what_is_no_place_is_one_line(tmp_path, to, said):
    with pytest.raises(InputError, match=f"--checkpoint-to={to}: {said}"):
        run(tmp_path / "run", to, 2)


def test_a_bucket_without_what_reads_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(stored.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gs://b/run/checkpoints: pip install 'r1jax\[gcs\]'"):
        run(tmp_path / "run", "gs://b/run", 2)


def test_a_run_is_not_begun_anew_because_its_checkpoints_are_elsewhere(tmp_path):
    out, to = tmp_path / "run", str(tmp_path / "disk")
    run(out, to, 2)
    before = (out / "metrics.jsonl").read_bytes()
    for told in ("", str(tmp_path / "other")):
        for resume in ("auto", "yes", "no"):
            with pytest.raises(InputError, match=f"has its checkpoints in {to}: give that"):
                run(out, told, 3, resume=resume)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_one_run_at_a_time_has_a_folder_of_checkpoints(tmp_path):
    to = tmp_path / "disk"
    with locked(to), pytest.raises(InputError, match=f"{to}: a run is under way in it"):
        run(tmp_path / "run", str(to), 2)


# What is not.


def goes_on(out, to):
    """Saved, gone on with, damaged, listed and pruned where it was told to be."""
    run(out, to, 3)
    assert stored.of(out) == epath.Path(to) / "checkpoints" and steps(out) == [2, 3]
    for one in command.found_in(out):
        assert manifest.damage(one.folder) == ("whole", "") and one.size > 500 and one.files > 8
        assert abs(one.written.timestamp() - (out / "run.json").stat().st_mtime) < 3600
    (got, _), said = run(out, to, 4, resume="yes")
    assert "resumed from step 3" in said
    same(got, 3)
    with pytest.raises(InputError, match=f"{to} already holds a run"):
        run(out.parent / "other", to, 2)
    path = epath.Path(to) / "checkpoints" / "4" / "note" / "metadata"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    (got, _), said = run(out, to, 5, resume="yes")
    assert "resumed from step 3" in said and any("is damaged" in line for line in said)
    same(got, 3)
    assert (epath.Path(to) / "damaged_checkpoint_4").is_dir()
    assert steps(out) == [4, 5]
    command.main([str(out), "--prune=newest:1"])
    assert steps(out) == [5]
    with Checkpoints(f"{to}/checkpoints") as found:
        step, got, _ = found.restore(ABSTRACT, small.CONFIG)
    assert step == 5
    same(got, 5)
    assert not (out / "checkpoints").exists()


def test_another_folder(tmp_path):
    goes_on(tmp_path / "run", str(tmp_path / "disk" / "kept"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store.serving(tmp_path_factory.mktemp("server") / "log") as (_, address):
        yield address


@contextmanager
def told(address, monkeypatch):
    """The address of the store, which gcsfs reads once."""
    for name, value in object_store.environment(address).items():
        monkeypatch.setenv(name, value)
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    fsspec.filesystem("gcs").clear_instance_cache()
    yield f"gs://bucket/{os.urandom(4).hex()}"
    epath.backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture
def bucket(server, monkeypatch):
    """A place in it that nobody else has."""
    with told(server, monkeypatch) as place:
        yield place


def test_a_bucket(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    goes_on(tmp_path / "run", bucket)
    assert not os.path.exists("gs:")


def test_a_run_whose_folder_was_lost_goes_on_from_the_bucket(bucket, tmp_path):
    out = tmp_path / "run"
    run(out, bucket, 3)
    shutil.rmtree(out)
    (got, _), said = run(out, bucket, 4, resume="auto")
    assert "resumed from step 3" in said
    same(got, 3)
    assert [json.loads(x)["step"] for x in (out / "metrics.jsonl").open()] == [3]


@pytest.fixture
def two(bucket):
    """Of steps 1 and 2, and the folder they are in."""
    folder = f"{bucket}/checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), small.CONFIG, {"position": step})
    return epath.Path(folder)


def test_a_flipped_byte_in_any_file_of_a_bucket_never_is_a_wrong_restore(two):
    files = [path.relative_to(two) for path in manifest.files_in(two / "2")]
    assert len(files) > 9 and two / "2" / stored.COMMIT in [two / name for name in files]
    passed_over = 0
    for name in files:
        whole = (two / name).read_bytes()
        at, said = len(whole) // 2, []
        (two / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            with Checkpoints(two, say=said.append) as checkpoints:
                step, got, _ = checkpoints.restore(ABSTRACT, small.CONFIG)
        except InputError as error:
            assert "cannot be read" in str(error)
            continue
        finally:
            (two / name).write_bytes(whole)
        same(got, step)
        if step == 1:
            assert len(said) == 1 and str(two / "2") in said[0] and "is damaged" in said[0]
            passed_over += 1
        else:
            assert step == 2 and not said and name.name in manifest.LATER
    assert passed_over >= len(files) - 2


def test_a_save_or_a_removal_that_was_killed_leaves_nothing_complete(two):
    """Neither has `commit_success.txt`."""
    (two / "2" / stored.COMMIT).unlink()
    assert stored.steps(two) == [1]
    with Checkpoints(two) as checkpoints:
        assert checkpoints.newest() == 1
        checkpoints.save(2, state(2), small.CONFIG, {"position": 2})
        checkpoints.wait()
        step, got, _ = checkpoints.restore(ABSTRACT, small.CONFIG)
        assert step == 2 and checkpoints.state(2) == ("whole", "")
        same(got, 2)


@pytest.mark.slow
def test_two_processes_write_one_checkpoint_to_a_bucket(server, bucket, tmp_path):
    """And go on with the metrics of the run that had its own folder, bit for bit."""
    config = tiny_run.inputs(tmp_path, mesh="4x2", steps=6, checkpoint_every=2, evaluate_every=100)
    cache, out, whole = tmp_path / "cache", tmp_path / "run", tmp_path / "whole"
    finish(start(R1_ZERO, [f"--config={config}", f"--out={whole}"], cache))
    args = [f"--config={config}", f"--out={out}", f"--checkpoint-to={bucket}", "--resume=auto"]
    told = object_store.environment(server)
    finish(start(R1_ZERO, [*args, "--steps=4"], cache, **told))
    assert steps(out) == [2, 4]
    assert all(manifest.damage(one.folder) == ("whole", "") for one in command.found_in(out))
    said = finish(start(R1_ZERO, args, cache, **told))
    assert "resumed from step 4" in said[0][0] and steps(out) == [4, 6]
    for part in (".", "process_1"):
        assert tiny_run.metrics(out / part) == tiny_run.metrics(whole / part)


def test_what_goes_wrong_in_the_midst_of_reading_is_one_line(two):
    [data] = [path for path in (two / "2" / "state" / "d").iterdir()]
    with Checkpoints(two) as checkpoints:
        assert checkpoints.newest() == 2
        data.unlink()
        with pytest.raises(InputError, match=f"{two}/2 cannot be read") as caught:
            checkpoints.restore(ABSTRACT, small.CONFIG)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_store_that_has_gone_is_one_line_and_no_damage(tmp_path, monkeypatch):
    """And one that another try may find: it is not taken for a run that has no checkpoints."""
    fails_at_once(monkeypatch)
    out = tmp_path / "run"
    with (
        object_store.serving(tmp_path / "log") as (server, address),
        told(address, monkeypatch) as place,
    ):
        run(out, place, 2)
        before = (out / "metrics.jsonl").read_bytes()
        found = command.found_in(out)[-1]
        server.kill()
        server.wait()
        for resume in ("auto", "yes", "no"):
            with pytest.raises(stored.Unreachable, match=f"{place}/checkpoints cannot be read or"):
                run(out, place, 3, resume=resume)
        with pytest.raises(stored.Unreachable):
            manifest.damage(found.folder)
        with pytest.raises(stored.Unreachable):
            command.main([str(out), "--verify"])
    assert (out / "metrics.jsonl").read_bytes() == before


def test_a_bucket_that_is_not_there_is_one_line_and_stays_so(bucket, tmp_path):
    to = bucket.replace("//bucket", "//absent")
    with pytest.raises(InputError, match=f"{to}/checkpoints cannot be read or written") as caught:
        run(tmp_path / "run", to, 2)
    assert "\n" not in str(caught.value) and not isinstance(caught.value, stored.Unreachable)


def test_another_try_may_reach_a_store_that_has_gone(monkeypatch, capsys):
    def main(args):
        raise stored.Unreachable("gs://b/run cannot be read or written")

    monkeypatch.setattr("sys.argv", ["x"])
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == LOST_PEER
    assert capsys.readouterr().err == "error: gs://b/run cannot be read or written\n"


def fails_at_once(monkeypatch):
    """Without gcsfs' tries of half a minute."""
    pytest.importorskip("gcsfs")
    from gcsfs import retry

    monkeypatch.setattr(retry, "is_retriable", lambda error: False)
