"""A grid: configurations of a run that differ from one reference, their controls and their seeds.

    preset = "tiny"                     # or config = "FILE", as --preset and --config
    seeds = 5                           # of each configuration
    control_seeds = 3                   # the first of them, of each control; left out: all
    bases = 3                           # that many of the embedded base, by other seeds
    controls = ["random", "no_trace"]   # left out: all that the reference can have

    [run]                               # the reference: fields as the flags name them
    steps = 120
    corpus.goes_on = 0.5

    [[configuration]]
    name = "depth 2"
    why = "does RL search deeper than anything that it has read?"
    corpus.depth = 2

    [axes]                              # and one for every combination of these
    "rl.kl-coef" = [0.0, 1e-3]

Controls belong to every grid: each is the reference with what it says in CONTROLS. `supervised` is
of the configuration that is the reference itself, or where there is none of the first: its run of a
seed learns from the replies of that one's of the same seed, which comes first.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.checks import InputError, check, check_seed, near
from r1jax.config import RunConfig
from r1jax.config_file import load_config, with_fields
from r1jax.presets import RUNS

# What each is a control for is in its name; the words are those of the verdict (member.json).
CONTROLS: dict[str, tuple[str, dict[str, Any]]] = {
    "no_trace": (
        "the base has read no reflective trace: can RL make one up?",
        {"corpus.reflective": 0.0, "corpus.practice": 0.0},
    ),
    "random": ("a coin pays: what is the update's own drift?", {"reward.control": "random"}),
    "format": ("form alone pays, whatever the answer", {"reward.accuracy": 0.0}),
    "shuffled": (
        "rewards as many and as large, but of other replies of the group",
        {"reward.control": "shuffled"},
    ),
    "no_update": ("nothing is learned: the drift of the measurement", {"optim.lr": 0.0}),
    "filler": (
        "long traces, but of words that mean nothing: is it length that primes?",
        {"corpus.filler": 1.0},
    ),
    "chance": (
        "verdicts at chance: searches that cannot know when they are done",
        {"corpus.verdicts": 0.5},
    ),
    "supervised": (
        "the right replies of a run, as next tokens: does it take rewards, or only successes?",
        {"learn_from": "", "stop_when_settled": False},
    ),
}
OWN_BASES = ("embedded", "train")  # of which the corpus is ours to choose
SET_BY_SWEEP = ("seed", "out", "resume", "learn_from")


@dataclasses.dataclass(frozen=True)
class Configuration:
    """changes: fields that differ from the grid's reference. control: its kind, if it is one."""

    name: str
    changes: Mapping[str, Any]
    why: str = ""
    control: str | None = None


@dataclasses.dataclass(frozen=True)
class Grid:
    """configurations: controls last. bases: bases of different seeds, which the seeds of a run
    take in turn."""

    reference: RunConfig
    configurations: tuple[Configuration, ...]
    seeds: tuple[int, ...]
    bases: int = 1
    control_seeds: int | None = None  # how many of the seeds; None: all

    def seeds_of(self, one: Configuration) -> tuple[int, ...]:
        return self.seeds[: self.control_seeds] if one.control else self.seeds

    def config(self, one: Configuration) -> RunConfig:
        return with_fields(self.reference, one.changes)


def read_grid(path: Path, seeds: int | None = None) -> Grid:
    """The grid of a TOML file; `seeds` in place of its own.

    Raises InputError that names the file and the field, the configuration or the key.
    """
    try:
        told = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    try:
        return parse_grid(told, path.parent, seeds)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_grid(told: Mapping[str, Any], folder: Path, seeds: int | None = None) -> Grid:
    """As `read_grid`, of what a file says; its `config` lies in `folder`."""
    for key in told:
        check(key in _KEYS, f"no key {key}{near(key, _KEYS)}")
    for key, kind in {"run": dict, "axes": dict, "configuration": list, "controls": list}.items():
        found = told.get(key, kind())
        check(isinstance(found, kind), f"{key} must be {_FORMS[key]}, got {found!r}")
    reference = _reference(told, folder)
    configurations = [
        *(_configuration(one) for one in told.get("configuration", [])),
        *_product(told.get("axes", {})),
    ]
    check(bool(configurations), "no [[configuration]] and no [axes]: nothing to compare")
    names = told.get("controls", controls_of(reference))
    for name in names:
        check(name in CONTROLS, f"controls: no control {name!r}{near(str(name), CONTROLS)}")
    for key in ("bases", "control_seeds"):
        n = told.get(key, 1)
        check(_whole(n) and n > 0, f"{key} must be a positive number, got {n!r}")
    grid = Grid(
        reference,
        tuple(configurations),
        _seeds(told.get("seeds", 1) if seeds is None else seeds),
        told.get("bases", 1),
        told.get("control_seeds"),
    )
    _check_apart(grid)
    controls = [_control(name, grid) for name in names]
    grid = dataclasses.replace(grid, configurations=(*configurations, *controls))
    _check_apart(grid)
    return grid


def _control(name: str, grid: Grid) -> Configuration:
    """Of a grid without controls."""
    why, changes = CONTROLS[name]
    if "learn_from" not in changes:
        return Configuration(name, changes, why, name)
    itself = (one for one in grid.configurations if grid.config(one) == grid.reference)
    of = next(itself, grid.configurations[0])
    return Configuration(name, {**of.changes, **changes, "learn_from": of.name}, why, name)


def controls_of(reference: RunConfig) -> list[str]:
    """The controls that a run like this can have: of the corpus, only where it is ours; of form,
    only where form pays; of its replies, only where all are kept."""
    own = reference.base in OWN_BASES and reference.task == "countdown"
    found = [n for n, (_, changes) in CONTROLS.items() if own or not _of_corpus(changes)]
    can = {"format": bool(reference.reward.format), "supervised": reference.log_replies}
    return [n for n in found if can.get(n, True)]


_KEYS = (
    "preset", "config", "seeds", "control_seeds", "bases", "controls", "run", "configuration",
    "axes",
)  # fmt: skip
_FORMS = {
    "run": "a table of fields",
    "axes": "a table of lists",
    "configuration": "[[configuration]] tables",
    "controls": "a list of names",
}


def _of_corpus(changes: Mapping[str, Any]) -> bool:
    return any(name.startswith("corpus.") for name in changes)


def _reference(told: Mapping[str, Any], folder: Path) -> RunConfig:
    preset = told.get("preset", "tiny")
    check(preset in RUNS, f"preset={preset}: expected one of {', '.join(RUNS)}{near(preset, RUNS)}")
    reference = RUNS[preset]()
    if "config" in told:
        reference = load_config(RunConfig, folder / told["config"], reference)
    try:
        return with_fields(reference, _flat(told.get("run", {})))
    except InputError as error:
        raise InputError(f"[run]: {error}") from error


def _configuration(told: Any) -> Configuration:
    check(isinstance(told, dict), _FORMS["configuration"])
    name, why = told.get("name", ""), told.get("why", "")
    check(isinstance(name, str) and bool(name), "a [[configuration]] has no name")
    changes = _flat({k: v for k, v in told.items() if k not in ("name", "why")})
    return Configuration(name, changes, str(why))


def _product(axes: Mapping[str, Any]) -> list[Configuration]:
    """One for every combination of the axes' values, named by them."""
    flat = _flat(axes)
    for name, values in flat.items():
        check(
            isinstance(values, list) and bool(values), f"[axes] {name}: expected a list of values"
        )
    if not flat:
        return []
    return [
        Configuration(
            ", ".join(f"{n.rpartition('.')[2]} {v}" for n, v in zip(flat, values, strict=True)),
            dict(zip(flat, values, strict=True)),
        )
        for values in itertools.product(*flat.values())
    ]


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted names, spelled as the flags or as the fields are."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        name = prefix + key.replace("-", "_")
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    for name in found:
        check(name not in SET_BY_SWEEP, f"{name} is set by the sweep")
    return found


def _seeds(told: Any) -> tuple[int, ...]:
    """Of a number of them, or a list."""
    if _whole(told):
        told = list(range(told))
    listed = isinstance(told, list) and all(map(_whole, told))
    check(listed, f"seeds must be a number of them or a list, got {told!r}")
    check(bool(told), "no seeds: a grid without any has no member")
    for seed in told:
        check_seed(seed, "a seed")
        check(told.count(seed) == 1, f"seed {seed} is given twice: its runs would be the same")
    return tuple(told)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_apart(grid: Grid) -> None:
    """Raises InputError for a configuration that cannot be, and for two that are one."""
    seen: dict[RunConfig, str] = {}
    for one in grid.configurations:
        kind = "control" if one.control else "configuration"
        try:
            cfg = grid.config(one)
        except InputError as error:
            raise InputError(f"{kind} {one.name!r}: {error}") from error
        check(
            cfg not in seen,
            f"{kind} {one.name!r} is {seen.get(cfg)!r} again: no field differs",
        )
        seen[cfg] = one.name


def varied(configurations: Sequence[Configuration]) -> list[str]:
    """Fields in which configurations that are no controls differ."""
    return list(dict.fromkeys(n for one in configurations if not one.control for n in one.changes))
