"""A run that was stopped, however it was stopped, goes on as if it never had been."""

import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny_run

from r1jax.checkpoint import Checkpoints
from r1jax.checks import InputError
from r1jax.metrics import read_jsonl
from r1jax.sharding import make_mesh


def assert_same_run(out, whole):
    """Parameters, moments, reference, step, position, metrics and replies: bit for bit."""
    assert tiny_run.metrics(out) == tiny_run.metrics(whole)
    for name in ("samples.jsonl", "replies.jsonl"):
        assert read_jsonl(out / name) == read_jsonl(whole / name)
    (step, position, state), (*want, want_state) = map(tiny_run.last_checkpoint, (out, whole))
    assert [step, position] == want
    jax.tree.map(np.testing.assert_array_equal, state, want_state)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_run.inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Three steps, never stopped."""
    return tiny_run.run(config, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def stopped(whole, tmp_path):
    """The run as a kill in its last step leaves it: the newest checkpoint is of step 2, written
    while step 3 was trained, and the logs are ahead of it."""
    out = shutil.copytree(whole, tmp_path / "stopped")
    shutil.rmtree(out / "checkpoints" / "3")
    return out


def resume(out, *flags):
    tiny_run.r1_zero.main(["--resume", f"--out={out}", *flags])
    return out


def test_training_changes_every_part_of_the_state(whole, stopped):
    """Or the tests below would not notice a part that is never restored."""
    (*_, before), (*_, after) = map(tiny_run.last_checkpoint, (stopped, whole))
    same = jax.tree.map(np.array_equal, before, after)
    assert not any(jax.tree.leaves(same.train.weights.params.moe.ffn))
    assert not any(jax.tree.leaves((same.train.opt_state, same.train.step)))
    assert not same.reference.params.embed_VD  # replaced after the sixth update


def test_resuming_from_an_earlier_checkpoint_changes_nothing(stopped, whole):
    assert_same_run(resume(stopped), whole)


@pytest.mark.slow
def test_a_critic_is_restored_with_its_moments(config, tmp_path, capsys):
    whole = tiny_run.run(config, tmp_path / "whole", "--rl.algorithm=ppo")
    out = shutil.copytree(whole, tmp_path / "stopped")
    shutil.rmtree(out / "checkpoints" / "3")
    (*_, before), (*_, after) = map(tiny_run.last_checkpoint, (out, whole))
    same = jax.tree.map(np.array_equal, before.critic, after.critic)
    assert not same.weights.params.head_D and not same.weights.params.trunk.embed_VD
    assert not any(jax.tree.leaves((same.opt_state, same.step)))
    assert_same_run(resume(out), whole)

    capsys.readouterr()
    resume(whole, "--steps=4", "--rl.algorithm=grpo")
    assert "resumed from step 3, without its critic\n" in capsys.readouterr().out
    page = (whole / "report.html").read_text()
    assert "from step 3: steps 3 → 4, rl.algorithm " in page and ", without its critic<" in page
    assert tiny_run.last_checkpoint(whole)[2].critic is None


def everything(out):
    """Bytes of what a run's folder says of it."""
    return {
        name: (out / name).read_bytes()
        for name in ("config.json", "run.json", "metrics.jsonl", "samples.jsonl", "replies.jsonl")
    }


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model.d-model=18"], "checkpoint of another model: model.d_model is 16, this run has"),
        (["--rl.algorithm=ppo"], "the checkpoint of step 3 has no critic, which this run needs"),
        (["--seed=5"], r"is at its last step, 3: with another seed only its last evaluation"),
        (["--heldout-share=0.5"], r"--heldout-share=0.5: .* began with 0.3, and goes on with it"),
        (["--base=random", "--steps=9"], r"--base=random: .* began with .*base.safetensors, and"),
        (["--corpus.practice=0", "--steps=9"], r"--corpus.practice=0.0: .* began with 0.3, and"),
        (["--sampling.temperature=2"], "with another sampling.temperature only its last"),
    ],
)
def test_a_finished_run_loses_nothing_by_a_refused_resume(whole, tmp_path, flags, message):
    out = shutil.copytree(whole, tmp_path / "finished")
    before = everything(out)
    with pytest.raises(InputError, match=message):
        resume(out, *flags)
    assert everything(out) == before


def test_a_run_without_a_critic_does_not_go_on_with_one(stopped):
    """And its folder is left as it was: the next command would be refused for this one's sake."""
    before = (stopped / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"checkpoint of step 2 has no critic, which this run"):
        resume(stopped, "--rl.algorithm=ppo")
    assert (stopped / "config.json").read_bytes() == before


def test_a_checkpoint_of_before_there_were_critics_is_read(whole, tmp_path):
    cfg, (step, _, state) = tiny_run.CONFIG, tiny_run.last_checkpoint(whole)
    with Checkpoints(tmp_path) as checkpoints:
        older = {"train": state.train, "reference": state.reference}
        checkpoints.save(step, older, cfg.model, {})
        abstract = tiny_run.abstract_policy(cfg, make_mesh("1"))
        _, got, note = checkpoints.restore(abstract, cfg.model)
    assert got.critic is None and note["left_out"] == []
    jax.tree.map(np.testing.assert_array_equal, got, state)


def test_what_a_checkpoint_holds_beside_what_is_asked_is_named(whole, tmp_path):
    cfg, (step, _, state) = tiny_run.CONFIG, tiny_run.last_checkpoint(whole)
    with Checkpoints(tmp_path) as checkpoints:
        held = {"train": state.train, "reference": state.reference, "critic": state.train}
        checkpoints.save(step, held, cfg.model, {})
        abstract = tiny_run.abstract_policy(cfg, make_mesh("1"))
        assert checkpoints.restore(abstract, cfg.model)[2]["left_out"] == ["critic"]


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_steps(config, whole, tmp_path):
    out = tiny_run.run(config, tmp_path / "run", "--steps=2")
    assert_same_run(resume(out, "--steps=3"), whole)


@pytest.mark.slow
def test_what_killed_saves_leave_is_ignored(stopped, whole):
    folder = stopped / "checkpoints"
    half = shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")  # half a save
    (half / "_CHECKPOINT_METADATA").unlink()
    shutil.rmtree(folder / "1", ignore_errors=True)
    shutil.copytree(folder / "2" / "note", folder / "1" / "note")  # half a removal
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    assert_same_run(resume(stopped), whole)


@pytest.mark.slow
def test_a_checkpoint_of_one_mesh_goes_on_on_another(stopped, whole):
    """On eight devices: the same replies, and numbers that differ by rounding only."""
    resume(stopped, "--mesh=4x2")
    samples = read_jsonl(stopped / "samples.jsonl")
    assert samples == read_jsonl(whole / "samples.jsonl")
    tiny_run.assert_same_metrics(stopped, whole)


def test_a_finished_run_is_not_made_shorter(whole):
    before = (whole / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="already at step 3: it cannot become a run of 2"):
        resume(whole, "--steps=2")
    assert (whole / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_resuming_before_the_first_checkpoint_starts_anew(config, whole, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "samples.jsonl").write_text('{"step": 0}\n{"st')
    assert_same_run(tiny_run.run(config, out, "--resume=auto"), whole)


def test_resuming_what_is_not_there_stops_and_makes_nothing(config, tmp_path):
    """A typing error must not train anew; a run that ended before its first checkpoint is told a
    way on by either flag."""
    with pytest.raises(InputError, match=r"--resume: .*typo holds no complete checkpoint.*=auto"):
        tiny_run.run(config, tmp_path / "typo", "--resume")
    assert not (tmp_path / "typo").exists()
    early = tmp_path / "early"
    early.mkdir()
    (early / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(InputError, match="already holds a run"):
        tiny_run.run(config, early)
    with pytest.raises(InputError, match="--resume=auto starts anew there"):
        tiny_run.run(config, early, "--resume")


def test_a_checkpoint_of_another_model_names_the_field(whole):
    with pytest.raises(InputError, match=r"another model: model.router.active is 2, .* has 3"):
        resume(whole, "--model.router.active=3")


def test_no_complete_checkpoint(tmp_path):
    (tmp_path / "1.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest() is None
        with pytest.raises(InputError, match="no complete checkpoint"):
            checkpoints.restore({}, tiny_run.CONFIG.model)


# In processes of their own, killed for real.


class Command:
    """`python -m experiments.r1_zero`, and how far it has come."""

    def __init__(self, config, out, cache, *flags, **environment):
        self.folder = out / "checkpoints"
        self.started_at = self.saved()
        command = [sys.executable, "-m", "experiments.r1_zero", f"--config={config}"]
        self.process = subprocess.Popen(
            [*command, f"--out={out}", *flags],
            env=tiny_run.environment(cache) | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def saved(self) -> int:
        steps = [p.name for p in self.folder.glob("*") if p.name.isdigit()]
        return max(map(int, steps), default=0)

    def starts(self) -> bool:
        return True

    def trains(self) -> bool:
        return self.saved() > self.started_at

    def saves(self) -> bool:
        return self.trains() and any(self.folder.glob("*-tmp*"))

    def kill_once(self, reached, delay: float) -> bool:
        """False where a fast machine had finished the run before the moment came."""
        while not reached() and self.process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        self.process.kill()
        self.process.communicate()
        assert self.process.returncode in (-signal.SIGKILL, 0)
        return self.process.returncode != 0

    def finish(self) -> None:
        _, errors = self.process.communicate()
        assert self.process.returncode == 0, errors.decode()


STEPS = "--steps=24"


def survives(config, tmp_path, kills, **environment) -> None:
    cache, whole, out = (tmp_path / name for name in ("cache", "whole", "out"))
    Command(config, whole, cache, STEPS, **environment).finish()
    landed = []
    for moment, delay in kills:
        command = Command(config, out, cache, STEPS, "--resume=auto", **environment)
        landed.append(command.kill_once(getattr(command, moment), delay))
    assert sum(landed) >= min(3, len(kills))
    Command(config, out, cache, STEPS, "--resume=auto", **environment).finish()
    assert_same_run(out, whole)


@pytest.mark.slow
def test_killed_in_a_save_and_in_a_step(config, tmp_path):
    survives(config, tmp_path, [("trains", random.uniform(0, 0.3)), ("saves", 0), ("trains", 0.1)])


@pytest.mark.slow
def test_killed_at_twelve_random_moments(config, tmp_path):
    """Also while starting, compiling and restoring, and later or earlier in saves; with the
    optimisations that the other tests do without, as people run it."""
    kills = [("saves", random.uniform(0, 0.05)) for _ in range(6)]
    kills += [("trains", random.uniform(0, 0.3)) for _ in range(3)]
    kills += [("starts", random.uniform(0, 8)) for _ in range(3)]
    random.shuffle(kills)
    survives(config, tmp_path, kills, XLA_FLAGS="")
