"""What a report says at its head: which run this is, and how far it came.

From config.json and metrics.jsonl, and from the run.json of `r1jax/run.py`: "command", "started"
(ISO time), "preset", "resumed" (the starts after the first: these two and a "step"), "changed" (a
line for each start that changed fields), "settled" (why it ended before its last step), "versions"
by name, "devices", "status" (running, finished or stopped), "step" (steps done) and "steps" (in
all). A run from before there was a run.json has the first two only.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import dacite

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.checks import InputError
from r1jax.metrics import Row
from r1jax.model.params import weight_specs


def facts(
    config: Mapping[str, Any], run: Mapping[str, Any], metrics: Sequence[Row]
) -> dict[str, str]:
    """The head's lines by label; what is not known is left out."""
    return {label: value for label, value in _facts(config, run, metrics) if value}


def _facts(config: Mapping[str, Any], run: Mapping[str, Any], metrics: Sequence[Row]):
    task, data = config.get("task"), config.get("data")
    yield "Status", status(config, run, metrics)
    yield "Task", f"{task}, from {data}" if task and data else task
    yield "Model", _model(config, run.get("preset"))
    rl = config.get("rl", {})
    if "questions" in rl:
        rollout = f"{rl['questions']} questions x {rl['group']} replies a step"
        yield "Algorithm", f"{rl['algorithm'].upper().replace('_', ' ')}, {rollout}"
    yield "Seed", str(config.get("seed", ""))
    yield "Mesh", " on ".join(filter(None, (config.get("mesh"), run.get("devices"))))
    yield "Command", run.get("command")
    resumed = run.get("resumed", [])
    if resumed:
        times = f"{len(resumed)} times, last " if len(resumed) > 1 else ""
        last = resumed[-1]
        yield (
            "Resumed",
            f"{times}from step {last['step']}, {_date(last['started'])}: {last['command']}",
        )
    yield "Settled", run.get("settled")
    yield "Changed", "; ".join(run.get("changed", []))
    yield "Started", _date(run.get("started"))
    versions = run.get("versions", {})
    yield "Versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def status(config: Mapping[str, Any], run: Mapping[str, Any], metrics: Sequence[Row]) -> str:
    """Such as "finished: 50 steps" or "stopped at step 12 of 50".

    A line of metrics.jsonl is written when its step is done, and one more, of the number of steps,
    at the end. While it says "running", run.json is as old as the newest checkpoint, and stays so
    if the run is killed: then the lines count.
    """
    total = run.get("steps", config.get("steps"))
    last = metrics[-1]["step"]
    logged = last if last == total else last + 1
    stage = run.get("status", "finished" if logged == total else "")
    done = run["step"] if stage in ("finished", "stopped") and "step" in run else logged
    if stage == "finished":
        return f"finished: {done} steps"
    said = {"stopped": "stopped at", "running": "running or killed, at"}.get(
        stage, "unfinished, at"
    )
    return f"{said} step {done}" + (f" of {total}" if total else "")


def _model(config: Mapping[str, Any], preset: str | None) -> str:
    try:
        model = dacite.from_dict(ModelConfig, config["model"], dacite.Config(strict=True))
        size = f"{sharding.count(weight_specs(model).params):,} parameters"
    except (KeyError, TypeError, InputError, dacite.DaciteError):  # another version's
        size = ""
    base = f"base {config['base']}" if config.get("base") else ""
    return ", ".join(filter(None, (size, f"preset {preset}" if preset else "", base)))


def _date(started: str | None) -> str:
    if not started:
        return ""
    when = datetime.datetime.fromisoformat(started)
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".strip()
