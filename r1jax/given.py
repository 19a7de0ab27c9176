"""What a program gives instead of files and flags: fields of configurations, rows, functions.

Every check says in one line which of them is wrong.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from r1jax import stored
from r1jax.checks import InputError, check, near
from r1jax.config import RewardConfig, TaskName
from r1jax.data.problems import Problem
from r1jax.data.sources import READERS, problem_row
from r1jax.rewards.components import Component
from r1jax.rewards.own import Function, own

Row = Mapping[str, Any]
# One's own function of (problem, reply), or a dict of weights: of such functions, and of the fields
# of RewardConfig by their names: {in_order: 1.0, brief: 0.1, "format": 0.0}.
Reward = Function | Mapping[Any, Any]


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with some fields changed; a part of it by a dict. Raises InputError for a field that
    is not there, or a value of another type."""
    known = {f.name: f.type for f in dataclasses.fields(config)}
    name_of, values = type(config).__name__, {}
    for name, value in changes.items():
        check(
            name in known,
            f"{name_of} has no field {name!r}{near(str(name), known)}; it has {', '.join(known)}",
        )
        now = getattr(config, name)
        if dataclasses.is_dataclass(now) and isinstance(value, Mapping):
            values[name] = changed(now, value)
        elif dataclasses.is_dataclass(now):
            ok = type(value) is type(now)
            check(ok, f"{name_of}.{name} takes a dict of its fields, got {value!r:.60}")
            values[name] = value
        else:
            values[name] = _typed(known[name], value, f"{name_of}.{name}")
    return dataclasses.replace(config, **values)


def _typed(kind: Any, value: Any, field: str) -> Any:
    """`value` as plain data of the type `kind`; NumPy's numbers and paths will do."""
    options = get_args(kind)
    if get_origin(kind) is Literal:
        check(
            value in options,
            f"{field} must be one of {', '.join(options)}, got {value!r:.60}"
            + near(str(value), options),
        )
        return value
    kinds = options or (kind,)
    number = isinstance(value, Real) and not isinstance(value, bool)
    if bool in kinds and isinstance(value, bool):
        return value
    if int in kinds and number and isinstance(value, Integral):
        return int(value)
    if float in kinds and number:
        return float(value)
    if str in kinds and isinstance(value, (str, Path)):
        return str(value)
    if type(None) in kinds and value is None:
        return None
    named = {bool: "True or False", int: "an integer", float: "a number", str: "a text"}
    wanted = " or ".join(named.get(k, "None") for k in kinds)
    raise InputError(f"{field} takes {wanted}, got {value!r:.60}")


def parts(reward: Reward | None) -> tuple[dict[Function, float], dict[str, Any]]:
    """Functions with their weights, and fields of RewardConfig."""
    if callable(reward):
        return {reward: 1.0}, {}
    check(
        reward is None or isinstance(reward, Mapping),
        f"reward: takes a function of (problem, reply) or a dict of weights, got {reward!r:.60}",
    )
    functions = {key: value for key, value in (reward or {}).items() if callable(key)}
    for function, weight in functions.items():
        _typed(float, weight, f"reward: {_name(function)}")
    named = {key: value for key, value in (reward or {}).items() if not callable(key)}
    return functions, named


def components(
    functions: Mapping[Function, float], cfg: RewardConfig
) -> dict[str, tuple[Component, float]]:
    """The user's components by name, with their weights."""
    found: dict[str, tuple[Component, float]] = {}
    for function, weight in functions.items():
        name = _name(function)
        taken = name in found or name in RewardConfig.built_in()
        check(not taken, f"reward: a component is already called {name!r}: name the function anew")
        found[name] = own(function, timeout_s=cfg.own_seconds), float(weight)
    return found


def _name(function: Function) -> str:
    return getattr(function, "__name__", type(function).__name__)


def rows_of(problems: Sequence[Problem | Row], task: TaskName, owned: bool) -> list[Row]:
    """Problems as rows of the form `task`. owned: a function pays."""
    check(task in READERS, f"task={task}: must be one of {', '.join(READERS)}")
    found: list[Row] = []
    for i, problem in enumerate(problems, start=1):
        if isinstance(problem, Problem):
            check(task == "problems", f"problem {i} is a Problem: leave out task={task!r}")
            row = problem_row(problem)
        else:
            row = plain(problem, f"problem {i}")
        if task == "problems":
            row = {"id": str(i), **({"kind": "own"} if owned else {}), **row}
        found.append(row)
    return found


def plain(row: Row, place: str) -> dict[str, Any]:
    """A row that JSON can hold. Raises InputError."""
    check(isinstance(row, Mapping), f"{place}: takes a dict of fields, got {row!r:.60}")
    try:
        json.dumps(dict(row))
    except TypeError as error:
        raise InputError(f"{place}: {error}") from None
    return dict(row)


def keep(rows: Sequence[Row], path: Path) -> None:
    """Writes rows as lines of JSON. Raises InputError if a run was trained on others there."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    begun = stored.steps(stored.of(path.parent))
    if begun and path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path}: holds the other rows of a run: choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def read(rows: Sequence[Row], task: TaskName) -> list[Problem]:
    """By the reader of their form. Raises InputError that names the row by its number."""
    if not rows:
        return []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problems.jsonl"
        keep(rows, file)
        try:
            return READERS[task](str(file), "stop")
        except InputError as error:
            raise InputError(str(error).replace(f"{file}:", "problem ", 1)) from None
