"""Reward functions of the user's own: `--reward=FILE.py:FUNCTION[:WEIGHT][:KIND+KIND]`.

    def short(problem, reply):            # r1jax.data.problems.Problem, str
        return 1.0 if len(reply) < 500 else 0.0

The contract: a function of a problem and one reply to it, the whole text with its `<think>`, that
returns a number or a bool. It runs in the grader's worker processes, one call a job, and is killed
when it takes longer than RewardConfig.own_seconds. Where it hangs, raises, or returns no number
from -1e9 to 1e9, the reply's grade is "failed": counted, told with file and line, and left out of
the training. It is tried before a run, at a reply that gives a problem's own answer. A reply that
was cut at max_tokens comes as far as it was written.

A problem of the kind "own" is one that no rule here can check. The first of the run's functions
that is for its kind says whether a reply is correct: by 1 (or True) or more.
"""

import functools
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cloudpickle

from r1jax.checks import InputError, check
from r1jax.config import RewardConfig
from r1jax.data.problems import Problem
from r1jax.rewards.components import COMPONENTS, Checked, Component, language, only

MOST = 1e9  # of a reward: float32, which advantages are taken in, holds its square
Function = Callable[[Problem, str], float]


class Raised(Exception):
    """What a user's function raised, as one line, which pickles whatever it was."""


@dataclass(frozen=True)
class FromFile:
    """The score of FILE's FUNCTION: pickles, and is imported anew in each process."""

    file: str
    function: str

    def __call__(self, batch: Sequence[Checked]) -> list[float]:
        return _values(load(self.file, self.function), self.function, batch)

    def warm_up(self) -> None:
        """Imports the file: what it loads costs no reply its time."""
        load(self.file, self.function)


@dataclass(frozen=True)
class FromPython:
    """The score of a function of a program or a notebook, which travels by value."""

    pickled: bytes
    name: str

    def __call__(self, batch: Sequence[Checked]) -> list[float]:
        return _values(cloudpickle.loads(self.pickled), self.name, batch)


def own(
    function: Function | str, kinds: Sequence[str] = (), timeout_s: float | None = None
) -> Component:
    """The component of a reward function: "FILE.py:FUNCTION", or the function itself.

    timeout_s: that a call may take; None: as long as the grader's checks.

    Raises InputError, in one line, where there is no such file or function, where the file cannot
    be imported, or where the function does not take (problem, reply).
    """
    score: FromFile | FromPython
    if isinstance(function, str):
        file, _, name = function.rpartition(":")
        _check(load(file, name), function)
        score = FromFile(str(Path(file).resolve()), name)
    else:
        name = getattr(function, "__name__", type(function).__name__)
        _check(function, name)
        score = FromPython(cloudpickle.dumps(function), name)
    return Component(score, "workers", tuple(kinds), 0, timeout_s, judges=True)


def components_of(
    cfg: RewardConfig, models: Mapping[str, Component] | None = None
) -> dict[str, Component]:
    """What the names in cfg.weights mean: the built-in components, the user's functions, and
    reward models. `models` are those of cfg.model_parts, opened, by name.

    Raises InputError as `own` does.
    """
    components = dict(COMPONENTS) | {"language": language(cfg.target_language)}
    for name, kinds in cfg.kinds_of.items():
        components[name] = only(kinds, components[name])
    for part in cfg.own_parts:
        place = f"{part.path}:{part.function}"
        components[part.name] = own(place, part.kinds, cfg.own_seconds)
    for part in cfg.model_parts:
        components[part.name] = only(part.kinds, (models or {})[part.name])
    return components


@functools.cache
def _module(file: str) -> ModuleType:
    path = Path(file)
    check(path.is_file(), f"--reward={file}: no such file")
    name = f"r1jax_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--reward={file}: not a Python file (NAME.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # as for a script: it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises is its one line
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f":{f.lineno}" for f in reversed(frames) if f.filename == file), "")
        raise InputError(
            f"--reward={file}{line}: cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


def load(file: str, name: str) -> Function:
    """The function of that name in a Python file. Raises InputError as `own` does."""
    module = _module(str(Path(file).resolve()))
    function = getattr(module, name, None)
    known = [n for n, value in vars(module).items() if inspect.isfunction(value) and n[0] != "_"]
    has = f"it has {', '.join(known)}" if known else "it has none"
    check(function is not None, f"--reward={file}:{name}: no function {name} in the file; {has}")
    return function  # type: ignore[return-value]


def _check(function: object, place: str) -> None:
    check(callable(function), f"--reward={place}: not a function")
    for one in (function, getattr(function, "__call__", None)):  # noqa: B004
        later = inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one)
        check(not later, f"--reward={place}: is async; a reward is returned, not awaited")
        check(
            not inspect.isgeneratorfunction(one),
            f"--reward={place}: yields; a reward is returned",
        )
    try:
        inspect.signature(function).bind(None, None)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(
            f"--reward={place}: must take (problem, reply), but with two arguments: {error}"
        ) from None
    except ValueError:  # a built-in function does not say
        return


def _values(function: Function, name: str, batch: Sequence[Checked]) -> list[float]:
    try:
        return [_number(function(c.problem, c.reply), name) for c in batch]
    except SystemExit as error:  # the reply's failure, not the end of the run
        raise Raised(f"{name} called sys.exit({error.code}){_place(error)}") from None
    except Exception as error:
        raise Raised(f"{type(error).__name__}: {error}{_place(error)}") from None


def _place(error: BaseException) -> str:
    """ " (FILE:LINE)", the last line of the user's own file that it came by."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    own = [f for f in frames if f.filename == frames[0].filename]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def _number(value: object, name: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must return a number or a bool, got {value!r:.60}") from None
    if isinstance(value, str) or not math.isfinite(number):
        raise ValueError(f"{name} must return a finite number, got {value!r:.60}")
    if abs(number) > MOST:
        raise ValueError(
            f"{name} must return a number between -{MOST:g} and {MOST:g}, got {value!r:.60}"
        )
    return number
