"""Components' values of a batch: what is scored, in which jobs, and put together by reply."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from r1jax.data.problems import Problem
from r1jax.rewards.checks import Verdict
from r1jax.rewards.components import Checked, Component, Outcome


class Given(NamedTuple):
    """What is graded, by index."""

    problems: Sequence[Problem]
    replies: Sequence[str]
    tokens: Sequence[int | None]
    truncated: Sequence[bool]

    def checked(self, i: int, outcome: Outcome | None = None, credit: float = 0.0) -> Checked:
        return Checked(
            self.problems[i],
            self.replies[i],
            outcome,
            credit,
            self.tokens[i],
            bool(self.truncated[i]),
        )


class Values(NamedTuple):
    """A component's, of some replies; empty where `detail` says what went wrong."""

    values: Sequence[float] = ()
    detail: str = ""
    died: bool = False


Chunk = tuple[str, tuple[int, ...]]  # a component's name, and the replies of one job
_Key = TypeVar("_Key")
_Result = TypeVar("_Result", Verdict, Values)


def chunks_of(components: Mapping[str, Component], given: Given) -> Iterator[Chunk]:
    """The jobs of the components that run in workers, each of about as many characters."""
    for name, component in components.items():
        if component.runs != "workers":
            continue
        chunk: list[int] = []
        size = 0
        for i, (problem, reply) in enumerate(zip(given.problems, given.replies, strict=True)):
            if not component.is_for(problem):
                continue
            chunk.append(i)
            size += len(reply)
            if size >= component.characters:
                yield name, tuple(chunk)
                chunk, size = [], 0
        if chunk:
            yield name, tuple(chunk)


def all_of(
    begun: Mapping[_Key, Callable[[], _Result]], begin: Callable[[_Key], Callable[[], _Result]]
) -> dict[_Key, _Result]:
    """Waits for all; what died is begun once more."""
    results = {key: wait() for key, wait in begun.items()}
    again = {key: begin(key) for key, result in results.items() if result.died}
    return results | {key: wait() for key, wait in again.items()}


def columns_of(
    scored: Mapping[Chunk, Values], names: Sequence[str], count: int
) -> tuple[dict[str, list[float]], dict[int, str]]:
    """(values of each component in workers, 0 where it was not asked; what failed, by reply)."""
    columns = {name: [0.0] * count for name in names}
    failures: dict[int, str] = {}
    for (name, places), found in scored.items():
        if found.detail:
            failures |= dict.fromkeys(places, found.detail)
            continue
        for i, value in zip(places, found.values, strict=True):
            columns[name][i] = float(value)
    return columns, failures


def of_its_kinds(component: Component, batch: Sequence[Checked]) -> list[float]:
    """0 for the other kinds."""
    places = [i for i, checked in enumerate(batch) if component.is_for(checked.problem)]
    column = [0.0] * len(batch)
    asked = batch if len(places) == len(batch) else [batch[i] for i in places]
    for i, value in zip(places, component.score(asked), strict=True):
        column[i] = float(value)
    return column
