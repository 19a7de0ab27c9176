"""RL on two processes: one mesh, one run, whatever one of them meets."""

import signal
import time

import numpy as np
import pytest
import tiny_run
from two_processes import R1_ZERO, finish, start

from r1jax.metrics import read_jsonl

# The grader of the second process breaks at every other answer, or has no memory left.
BROKEN = """
if rank == "1":
    from r1jax.rewards import checks
    check = checks.check_countdown
    def breaks(answer, *args):
        if answer != "1" and len(answer) % 4 == 1:  # "1": how references are tried
            if len(answer) % 8 == 1:
                return bytearray(2**62)  # MemoryError
            raise OSError("this host is broken")
        return check(answer, *args)
    checks.check_countdown = breaks
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_run.inputs(tmp_path_factory.mktemp("inputs"), mesh="4x2", steps=4)


def logs(out):
    """Of both processes, without what depends on a clock."""
    return tiny_run.metrics(out), tiny_run.metrics(out / "process_1")


def test_one_broken_grader_leaves_all_processes_with_the_same_rollouts(config, cache, tmp_path):
    """And they draw again together (dynamic sampling), where each would decide for itself. Each
    reads which experts the sampler took, of its own slots and of the other's."""
    out = tmp_path / "run"
    flags = ["--rl.max-draws=3", "--rl.algorithm=dapo", f"--config={config}", f"--out={out}"]
    flags.append("--rl.routing-replay")
    finish(start(BROKEN + R1_ZERO, flags, cache))
    first, second = logs(out)
    assert first == second
    assert sum(row["outcome/failed"] or 0 for row in first) > 0
    assert read_jsonl(out / "samples.jsonl") == read_jsonl(out / "process_1" / "samples.jsonl")
    for row in first[:-1]:  # what the devices were given is what the hosts found
        total = row["reward/accuracy"] + row["reward/format"]
        np.testing.assert_allclose(row["reward/mean"], total, rtol=1e-6)
        assert row["sampler/routing_diff"] == 0


@pytest.fixture(scope="module")
def whole(config, cache, tmp_path_factory):
    """Never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(R1_ZERO, [f"--config={config}", f"--out={out}"], cache))
    return out


def test_two_processes_do_what_one_does(config, whole, tmp_path):
    one = tiny_run.run(config, tmp_path / "one")
    assert read_jsonl(one / "samples.jsonl") == read_jsonl(whole / "samples.jsonl")
    for got, want in zip(*logs(whole), strict=True):
        assert got == want
    for got, want in zip(tiny_run.metrics(whole), tiny_run.metrics(one), strict=True):
        for name, value in want.items():
            if value is None:
                assert got[name] is None
            else:
                np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


# The second process waits in step 2 for a signal, and so the first does for it.
WAITS = """
if rank == "1":
    import time
    from r1jax.run import Run
    steps = Run.steps
    def held(self, *given):
        for step in steps(self, *given):
            while step == 2 and self._signal is None:
                time.sleep(0.02)
            yield step
    Run.steps = held
"""


def test_a_signal_to_one_process_ends_both_at_one_step_and_they_go_on(
    config, cache, whole, tmp_path
):
    out = tmp_path / "run"
    both = start(WAITS + R1_ZERO, [f"--config={config}", f"--out={out}"], cache)
    while not (out / "checkpoints" / "2").exists():
        assert all(process.poll() is None for process in both)
        time.sleep(0.05)
    both[1].send_signal(signal.SIGTERM)
    for said, _ in finish(both):
        assert "stopped by SIGTERM after step 3 of 4" in said and f"--resume --out={out}" in said
    assert [row["step"] for row in tiny_run.metrics(out)] == [0, 1, 2]
    finish(start(R1_ZERO, ["--resume", f"--out={out}"], cache))
    assert logs(out) == logs(whole)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_both_with_the_same_line(config, cache, tmp_path):
    out = tmp_path / "run"
    flags = [f"--config={config}", f"--out={out}", "--optim.lr=1e30"]
    for rank, (_, errors) in enumerate(finish(start(R1_ZERO, flags, cache), code=2)):
        place = out / "process_1" if rank else out
        assert "is not finite; its batch is saved as" in errors and str(place) in errors
        assert len(list(place.glob("nan_step_*.npz"))) == 1
        [record] = place.glob("flight_nan_step_*.txt")
        assert "gradient norms" in record.read_text() and "moe.0: " in record.read_text()
