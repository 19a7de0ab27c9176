"""One type for every task's problems."""

import dataclasses
from typing import Literal

Kind = Literal["countdown", "math", "choice", "code", "words", "gym", "instructions", "own"]


@dataclasses.dataclass(frozen=True)
class Tests:
    """What a program must do, in one of three forms; `prelude` stands before the program.

    stdio: (standard input, expected standard output) of one run each (Codeforces, LiveCodeBench).
    calls: (arguments as a JSON list, expected result as JSON) of `function` (LiveCodeBench).
    code: Python that asserts about what the program defines (MBPP), or that defines
    `check(candidate)`, to be called with `function` (HumanEval).
    """

    stdio: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    code: str = ""
    function: str = ""
    prelude: str = ""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question whose reply can be graded by a rule.

    `prompt` is the bare question; a template (`r1jax.data.templates`) turns it into what the
    model reads. `answer` is the reference: the target of a countdown problem, whose operands are
    `numbers`; the letter of a multiple choice, whose options are `choices`; the words that a text
    must use, separated by blanks; the entry of a reasoning-gym task, as JSON; the instructions that
    a reply must follow, as JSON of [[name, arguments], ...] (r1jax/rewards/instructions.py). A
    program is checked by `tests` instead. Of the kind "own" it is whatever the user's reward
    function reads (r1jax/rewards/own.py), and may be empty.
    """

    id: str
    kind: Kind
    prompt: str
    answer: str = ""
    numbers: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()
    tests: Tests | None = None
    source: str = ""
