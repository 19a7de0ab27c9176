"""Grades for a batch of replies: every reply gets its own, by index.

Whether an answer is right is checked by a rule, as in DeepSeek-R1-Zero (arXiv 2501.12948v1,
section 2.2.2); the reward is a weighted sum of components (r1jax/rewards/components.py). A grader
that breaks is not a wrong answer: such replies have the outcome "failed" and are not `graded`, so
that they can be counted apart and kept out of the training, since a bug that looks like a bad
policy would otherwise train one.

What takes microseconds is checked at once. What may take for ever runs in processes that are
killed on time: formulas, reasoning-gym's scorers and slow components in a pool of workers, programs
in sandboxes of their own (r1jax/rewards/code.py). Meanwhile the caller may go on. What runs on the
devices of all processes of a run is apart: `Grader.together`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1jax.checks import check
from r1jax.data import gym
from r1jax.data.problems import Problem
from r1jax.rewards.checks import (
    SLOW,
    Verdict,
    answer_of,
    describe,
    from_sandbox,
    quick_verdict,
    reference_of,
    timed,
    verdict_of,
)
from r1jax.rewards.code import CodeGrader
from r1jax.rewards.columns import Chunk, Given, Values, all_of, chunks_of, columns_of, of_its_kinds
from r1jax.rewards.components import (
    COMPONENTS,
    PLAIN,
    Checked,
    Component,
    Outcome,
    check_kinds,
)
from r1jax.rewards.math import grade_math
from r1jax.rewards.references import find_unreadable, report_unreadable
from r1jax.rewards.sandbox import Limits
from r1jax.rewards.workers import Job, WorkerDied, Workers

ALWAYS = ("accuracy", "format")  # components that every grade has, whatever their weight


@dataclass(frozen=True)
class Grade:
    """One reply's grade, plain data: `components` are unweighted; `reward` is their weighted sum.

    outcome: of the check of the answer; "failed" also where a component could not be computed, of
        which `detail` then says why. Components and reward of such a grade are for the log only.
    credit: what the check gave, in [0, 1].
    seconds: that the check took; equal answers to a problem are checked once.
    answer, check: what was read from the reply, and what it was checked by.
    """

    outcome: Outcome
    components: dict[str, float]
    reward: float
    detail: str = ""
    seconds: float = 0.0
    answer: str | None = None
    check: str = ""
    credit: float = 0.0

    @property
    def graded(self) -> bool:
        """Whether the reward says anything about the reply: no grader failed."""
        return self.outcome != "failed"

    @property
    def accuracy(self) -> float:
        return self.components["accuracy"]

    @property
    def format(self) -> float:
        return self.components["format"]


class Pending:
    """Grades that are being made."""

    def __init__(self, finish: Callable[[], list[Grade]]):
        self._finish = functools.cache(finish)

    def result(self) -> list[Grade]:
        """Waits; the grade of each reply, by index.

        Not for longer than every check and component's job takes at its limit of time, shared by
        the workers, and once more for those whose process died.
        """
        return self._finish()


_Item = tuple[Problem, str | None]  # a problem and the answer read from a reply
_Check = Callable[[], Verdict]  # waits, where it must


class Grader:
    """Grades replies; a context manager, since it may hold worker processes.

    weights: of components in the reward, by name. One of weight 0 is computed and logged; one left
        out is not computed, but for ALWAYS.
    components: what the names mean.
    workers: processes for formulas and puzzles, started at the first that needs one; programs that
        run at once.
    timeout_s: seconds that the check of a formula or a puzzle, or a component's job, may take
        before it is killed. It is not tried again.
    limits, unsafe: of the sandboxes of programs; see CodeGrader.

    Raises InputError for unknown weights or sizes that are not positive.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        workers: int = 1,
        timeout_s: float = 5.0,
        components: Mapping[str, Component] = COMPONENTS,
        limits: Limits | None = None,
        unsafe: bool = False,
    ):
        for name in weights:
            check(
                name in components,
                f"Grader.weights: unknown component {name!r}, must be one "
                f"of {', '.join(components)}",
            )
        check(bool(weights), "Grader.weights is empty")
        check(workers > 0, f"Grader.workers must be positive, got {workers}")
        check(timeout_s > 0, f"Grader.timeout_s must be positive, got {timeout_s}")
        self.weights = dict(weights)
        self.components = {n: components[n] for n in dict.fromkeys((*ALWAYS, *weights))}
        scores = [component.score for component in self.components.values()]
        own = tuple(score for score in scores if hasattr(score, "warm_up"))
        self._workers = Workers(workers, timeout_s, functools.partial(_warm_up, own))
        self._sandboxes: CodeGrader | None = None
        self._new_sandboxes = functools.partial(CodeGrader, workers, limits, unsafe)

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes; a later `grade` starts new ones."""
        self._workers.close()
        if self._sandboxes is not None:
            self._sandboxes.close()
            self._sandboxes = None

    def require(
        self, problems: Sequence[Problem], say: Callable[[str], None] | None = None
    ) -> None:
        """Raises InputError if this host cannot grade such problems: better before any work.

        Starts what their grading needs, so that no batch waits for it.

        say: is told, in one line, of a function that fails at a reply which gives a problem's own
            reference; and of references that cannot be read, at which every grade would fail, by
            the ids of their problems; InputError if none can be.
        """
        if any(problem.tests is not None for problem in problems):
            self._start_sandboxes()
        if any(problem.kind == "gym" for problem in problems):
            gym.require()
        for name, component in self.components.items():
            check_kinds(name, component, problems)
        for problem in problems:
            check(
                problem.kind != "own" or self._judge(problem) is not None,
                f"problem {problem.id}: no reward function is for its kind: "
                "--reward=FILE.py:FUNCTION names one",
            )
        jobs = any(not c.characters for c in self.components.values() if c.runs == "workers")
        if jobs or any(problem.kind in SLOW for problem in problems):
            self._workers.submit(_nothing)
        if say is not None:
            self._try_own(problems, say)
            report_unreadable(find_unreadable(problems, self._workers), len(problems), say)

    def _try_own(self, problems: Sequence[Problem], say: Callable[[str], None]) -> None:
        """Before an evaluation is drawn, in whose grades it would be found."""
        for name, component in self.components.items():
            problem = next(filter(component.is_for, problems), None)
            if problem is None or not component.judges:
                continue
            reply = f"<think> {problem.answer} </think> <answer> {problem.answer} </answer>"
            job = self._workers.submit(
                component.score, [Checked(problem, reply, None, 0)], timeout_s=component.timeout_s
            )
            _, error = self._result(job)
            if error is not None:
                why = " ".join(describe(error).split())
                say(f"warning: {name} fails at {reply!r} to problem {problem.id}: {why}")

    def grade(
        self,
        problems: Sequence[Problem],
        replies: Sequence[str],
        tokens: Sequence[int] | None = None,
        truncated: Sequence[bool] | None = None,
    ) -> list[Grade]:
        """`submit`, its result, and `together`: where there is one process."""
        grades = self.submit(problems, replies, tokens, truncated).result()
        return self.together(problems, replies, grades, truncated)

    def submit(
        self,
        problems: Sequence[Problem],
        replies: Sequence[str],
        tokens: Sequence[int] | None = None,
        truncated: Sequence[bool] | None = None,
    ) -> Pending:
        """Begins to grade each reply to the problem of the same index, and returns at once.

        A reply is the whole text: it begins with the `<think>` even where the prompt forced it, and
        has no end-of-sequence token. `tokens` are the lengths of the replies as they were drawn.
        `truncated` are those that were cut: they have no answer, unless the kind is PLAIN (a part
        of a story is a text); components read what they wrote.

        Equal answers to equal problems are checked once. A check or a component whose process died
        is tried once more, in a new one, and then reported as "failed", as is one that took too
        long or raised. Components that run together are left to `together`.
        """
        for values in (replies, tokens, truncated):
            if values is not None and len(values) != len(problems):
                raise ValueError(f"{len(problems)} problems but {len(values)} replies")
        given = Given(
            problems,
            replies,
            [None] * len(problems) if tokens is None else tokens,
            [False] * len(problems) if truncated is None else truncated,
        )
        items = [
            (p, None if cut and p.kind not in PLAIN else answer_of(p, reply))
            for p, reply, cut in zip(problems, replies, given.truncated, strict=True)
        ]
        begun = {item: self._begin(*item) for item in dict.fromkeys(items)}
        chunks = {chunk: self._score(given, chunk) for chunk in chunks_of(self.components, given)}

        def finish() -> list[Grade]:
            verdicts = all_of(begun, lambda item: self._begin(*item))
            scored = all_of(chunks, lambda chunk: self._score(given, chunk))
            names = [name for name, c in self.components.items() if c.runs != "together"]
            columns, failures = columns_of(scored, names, len(items))
            found = [verdicts[item] for item in items]
            for i, problem in enumerate(problems):
                if problem.kind == "own":
                    found[i] = self._own_verdict(given, i, columns)
            for i, detail in failures.items():
                found[i] = found[i]._replace(outcome="failed", credit=0.0, detail=detail)
            batch = [
                given.checked(i, verdict.outcome, verdict.credit) for i, verdict in enumerate(found)
            ]
            for name, component in self.components.items():
                if component.runs == "here":
                    columns[name] = of_its_kinds(component, batch)
            rows = zip(*(columns[name] for name in names), strict=True)
            return [
                self._grade(verdict, answer, dict(zip(names, row, strict=True)))
                for verdict, (_, answer), row in zip(found, items, rows, strict=True)
            ]

        return Pending(finish)

    @property
    def asks_together(self) -> bool:
        """Whether `together` has anything to do, and so needs the text of every reply."""
        return any(component.runs == "together" for component in self.components.values())

    def together(
        self,
        problems: Sequence[Problem],
        replies: Sequence[str],
        grades: Sequence[Grade],
        truncated: Sequence[bool] | None = None,
    ) -> list[Grade]:
        """`grades` with the components that run on the devices of all processes together.

        To be called in every process of a run with the same replies, all of them.
        """
        if not self.asks_together:
            return list(grades)
        cut = [False] * len(grades) if truncated is None else truncated
        batch = [
            Checked(problem, reply, grade.outcome, grade.credit, None, bool(flag))
            for problem, reply, grade, flag in zip(problems, replies, grades, cut, strict=True)
        ]
        found = list(grades)
        for name, component in self.components.items():
            if component.runs != "together":
                continue
            values = of_its_kinds(component, batch)
            for i, value in enumerate(values):
                found[i] = dataclasses.replace(
                    found[i],
                    components=found[i].components | {name: value},
                    reward=found[i].reward + self.weights.get(name, 0.0) * value,
                )
        return found

    def _grade(self, verdict: Verdict, answer: str | None, components: dict[str, float]) -> Grade:
        reward = sum(
            weight * components[name] for name, weight in self.weights.items() if name in components
        )
        outcome, credit, detail, seconds, check, _ = verdict
        return Grade(outcome, components, reward, detail, seconds, answer, check, credit)

    def _begin(self, problem: Problem, answer: str | None) -> _Check:
        """Checks at once what takes microseconds, and asks for a check of what does not."""
        if answer is None or problem.kind == "own":
            return lambda: Verdict("unparseable")
        verdict = quick_verdict(problem, answer)
        if verdict is not None:
            return lambda: verdict
        if problem.tests is not None:
            program = self._start_sandboxes().submit(problem.tests, answer)
            return functools.partial(from_sandbox, program)
        if problem.kind == "gym":
            gym.require()
        function, name = SLOW[problem.kind]
        job = self._workers.submit(timed, function, answer, reference_of(problem))
        return functools.partial(self._from_worker, job, name)

    def _score(self, given: Given, chunk: Chunk) -> Callable[[], Values]:
        name, places = chunk
        component, batch = self.components[name], [given.checked(i) for i in places]
        if sum(map(len, given.replies)) < component.characters:
            return lambda: Values(component.score(batch))
        job = self._workers.submit(component.score, batch, timeout_s=component.timeout_s)
        return functools.partial(self._values, job, name)

    def _values(self, job: Job, name: str) -> Values:
        found, error = self._result(job)
        if error is not None:
            return Values((), f"{name}: {describe(error)}", isinstance(error, WorkerDied))
        return Values(found)

    def _judge(self, problem: Problem) -> str | None:
        """The name of the component that says whether a reply to such a problem is correct."""
        for name, component in self.components.items():
            if component.judges and component.is_for(problem):
                return name
        return None

    def _own_verdict(self, given: Given, i: int, columns: Mapping[str, list[float]]) -> Verdict:
        name = self._judge(given.problems[i])
        if name is None:
            return Verdict("failed", detail="no reward function is for a problem of kind own")
        if given.truncated[i]:
            return Verdict("unparseable", check=name)
        return verdict_of(min(max(columns[name][i], 0.0), 1.0), name, 0.0)

    def _start_sandboxes(self) -> CodeGrader:
        if self._sandboxes is None:
            self._sandboxes = self._new_sandboxes()
        return self._sandboxes

    def _result(self, job: Job) -> tuple[Any, Exception | None]:
        """(what a job gave, what went wrong)."""
        try:
            return self._workers.result(job), None
        except Exception as error:  # whatever a check or a user's function raises
            return None, error

    def _from_worker(self, job: Job, name: str) -> Verdict:
        found, error = self._result(job)
        if error is not None:
            seconds = job.timeout_s if isinstance(error, TimeoutError) else 0.0
            died = isinstance(error, WorkerDied)
            return Verdict("failed", 0.0, describe(error), seconds, name, died)
        score, seconds = found
        return verdict_of(score, name, seconds)


def _nothing() -> None:
    """A job that only starts the workers."""


def _warm_up(scores: Sequence[Any]) -> None:
    """Runs in each new worker, so that loading sympy and the parser, and what the user's functions
    import, costs no item its time."""
    grade_math("x + 1", "1 + x")
    for score in scores:
        score.warm_up()
