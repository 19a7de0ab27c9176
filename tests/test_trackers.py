"""Where scalars go beside the files."""

import sys
from types import SimpleNamespace

import pytest

from r1jax.checks import InputError
from r1jax.metrics import MetricsLog


class FakeWandB:
    def __init__(self):
        self.told, self.logged, self.finished = {}, [], 0

    def init(self, **told):
        self.told = told
        log = lambda scalars, step: self.logged.append((step, scalars))  # noqa: E731
        return SimpleNamespace(log=log, finish=self.finish)

    def finish(self):
        self.finished += 1


def test_wandb_gets_the_scalars_that_exist_and_the_configuration(tmp_path, monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with MetricsLog(tmp_path / "run", None, "tensorboard,wandb", {"seed": 3}) as log:
        log.log(0, {"loss": 1.5, "absent": None})
        log.log(1, {"loss": 1.0, "absent": 2})
    assert fake.logged == [(0, {"loss": 1.5}), (1, {"loss": 1.0, "absent": 2.0})]
    assert fake.told["config"] == {"seed": 3} and fake.told["name"] == "run"
    assert fake.told["resume"] == "allow" and fake.finished == 1
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_no_tracker_leaves_the_files_alone(tmp_path):
    with MetricsLog(tmp_path / "run", None, "") as log:
        log.log(0, {"loss": 1.5})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "metrics.jsonl", "samples.jsonl",
    }  # fmt: skip


@pytest.mark.parametrize(
    "names, message",
    [
        ("wandb", "--log=wandb: it is not installed: pip install wandb"),
        ("tensorbord", "no log is called 'tensorbord', there are tensorboard, wandb"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path, monkeypatch, names, message):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=message):
        MetricsLog(tmp_path / "run", None, names)
