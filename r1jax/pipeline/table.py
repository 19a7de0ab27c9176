"""The table of all stages: every measure of every model, beside the paper's figures."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.data.problems import Problem
from r1jax.evaluation.replies import Reply
from r1jax.pipeline.measures import MEASURES, Measure
from r1jax.rewards.grading import Grade

COLUMNS = ("Zero", "Dev1", "Dev2", "Dev3", "R1")  # as the paper has them
TOLD_APART = 2.0  # standard errors of the difference
Judged = tuple[Problem, Reply, Grade]


class Value(NamedTuple):
    """A mean over questions of the means over their replies, and its standard error over
    questions."""

    mean: float
    se: float
    questions: int


def values_of(replies: Iterable[Judged]) -> dict[str, Value]:
    """Every measure of a model's replies; those that none of them has are left out."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for problem, reply, grade in replies:
        for measure in MEASURES:
            value = measure.of(problem, reply, grade)
            if value is not None:
                found[measure.name][problem.id].append(value)
    return {name: _value(by_question) for name, by_question in found.items()}


def _value(by_question: Mapping[str, Sequence[float]]) -> Value:
    means = np.array([np.mean(values) for values in by_question.values()])
    se = float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else 0.0
    return Value(float(np.mean(means)), se, len(means))


def agreement(measure: Measure, by_model: Mapping[str, Mapping[str, Value]]) -> str:
    """Of the changes from stage to stage that the paper reports: how many have the same direction
    here, how many the other, and how many are within two standard errors of none."""
    if not measure.paper:
        return ""
    same, other, none = [], [], []
    for i in range(len(COLUMNS) - 1):
        change = f"{COLUMNS[i]} → {COLUMNS[i + 1]}"
        before, after = (by_model.get(name, {}).get(measure.name) for name in COLUMNS[i : i + 2])
        if before is None or after is None:
            continue
        here, there = after.mean - before.mean, measure.paper[i + 1] - measure.paper[i]
        if abs(here) <= TOLD_APART * math.hypot(before.se, after.se):
            none.append(change)
        elif (here > 0) == (there > 0):
            same.append(change)
        else:
            other.append(change)
    total = len(same) + len(other) + len(none)
    said = [f"{len(same)} of {total} agree"] if total else []
    said += [f"other way: {', '.join(other)}"] if other else []
    said += [f"not told apart: {', '.join(none)}"] if none else []
    return "; ".join(said)


def as_data(by_model: Mapping[str, Mapping[str, Value]]) -> dict[str, Any]:
    """Plain data, for table.json."""
    return {
        "models": list(by_model),
        "measures": {
            measure.name: {
                "label": measure.label,
                "values": {
                    model: values[measure.name]._asdict()
                    for model, values in by_model.items()
                    if measure.name in values
                },
                "paper": dict(zip(COLUMNS, measure.paper, strict=False)),
                "paper_is": measure.source,
                "agreement": agreement(measure, by_model),
            }
            for measure in MEASURES
        },
    }


def lines(by_model: Mapping[str, Mapping[str, Value]]) -> list[str]:
    """For people: a line a measure, and the paper's below it where it has one."""
    models = list(by_model)
    rows: list[list[str]] = [["", *models, ""]]
    for measure in MEASURES:
        values = [by_model[model].get(measure.name) for model in models]
        rows.append([measure.label, *(shown(measure, v) for v in values), ""])
        if measure.paper:
            paper = dict(zip(COLUMNS, measure.paper, strict=True))
            told = [f"{paper[m]:.1f}" if m in paper else "" for m in models]
            rows.append([f"  paper: {measure.source}", *told, agreement(measure, by_model)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(models) + 1)]
    return [
        "  ".join(
            cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i])
            for i, cell in enumerate(row[:-1])
        ).rstrip()
        + (f"  {row[-1]}" if row[-1] else "")
        for row in rows
    ]


def shown(measure: Measure, value: Value | None) -> str:
    if value is None:
        return ""
    return f"{100 * value.mean:.1f}" if measure.percent else f"{value.mean:.0f}"
