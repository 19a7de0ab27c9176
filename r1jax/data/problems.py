"""One type for every task's problems."""

import dataclasses
from typing import Literal

Kind = Literal["countdown", "math"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question whose reply can be graded by a rule.

    `prompt` is the bare question; a template (`r1jax.data.templates`) turns it into what the
    model reads. `numbers` are the operands of a countdown problem, `answer` the reference
    answer (the target, for countdown).
    """

    id: str
    kind: Kind
    prompt: str
    answer: str
    numbers: tuple[int, ...] = ()
    source: str = ""
