"""An evaluation: draws what is missing, grades what has no grade, and puts the figures together.

    OUT/evaluation.json   what was asked for; another request needs another folder
    OUT/questions.jsonl   every question as the model read it
    OUT/replies.jsonl     a line a reply, appended when it ends
    OUT/grades.jsonl      a line a grade; remove it to grade the same replies again
    OUT/results.json      the figures

Replies to all benchmarks come from one engine, side by side, and are graded meanwhile. Whatever is
there already is not drawn again, so that more benchmarks, questions or replies may be asked for
later. Every process of a pod draws and grades; the first one writes.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from r1jax import processes
from r1jax.checks import InputError, check
from r1jax.data.problems import Problem
from r1jax.evaluation.local import Ask, Replier
from r1jax.evaluation.protocol import Protocol, asked
from r1jax.evaluation.questions import Asked, Question, number_of
from r1jax.evaluation.replies import Key, Lines, Reply, grade_of, reply_of
from r1jax.evaluation.results import Answered, contamination, results_of
from r1jax.evaluation.swebench import write_predictions
from r1jax.files import write_whole
from r1jax.lock import locked
from r1jax.rewards.grading import Grade, Grader
from r1jax.rewards.shares import grade_shares

REPLIES = "replies.jsonl"
CHUNK = 64  # replies that are graded together
EVERY = 10.0  # seconds between two lines of progress
PENDING = 16  # chunks that may wait for their grades while others are drawn


def k_of(benchmark: Asked, protocol: Protocol) -> int:
    """Greedy replies are all the same."""
    if protocol.temperature == 0 and not protocol.k:
        return 1
    return protocol.k or benchmark.benchmark.k


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is asked of whom. drops: questions that cannot be asked are left out and counted, and
    do not end the evaluation before it begins. identity: what has to be the same for two
    evaluations to share a folder, beside the protocol. say: is told a line now and then."""

    replier: Replier
    benchmarks: Sequence[Asked]
    protocol: Protocol
    grader: Grader
    out: Path
    drops: bool = False
    training: Sequence[Problem] | None = None
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    say: Callable[[str], None] = print
    unasked: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict, init=False)

    def run(self) -> dict[str, Any]:
        """The results, which are written to OUT/results.json, too.

        Raises InputError for a question that cannot be asked or graded, before anything is drawn;
        for a folder that holds another evaluation; and as the replier does, with all replies kept.
        """
        writes = jax.process_index() == 0
        texts = self._texts()
        with contextlib.ExitStack() as stack:

            def ready() -> list:
                """In every process, or in none: the others would wait for ever."""
                graded = [b for b in self.benchmarks if b.benchmark.graded]
                self.grader.require([q.problem for b in graded for q in b.questions], self.say)
                if writes:
                    stack.enter_context(locked(self.out))
                    self._check_same()
                    self._write_questions(texts)
                return []

            processes.gather(ready)
            work = _Work(self, texts, writes)
            stack.callback(work.close)
            work.go_on()
            found = self._results(work)
            if writes:
                write_whole(self.out / "results.json", json.dumps(found, indent=2) + "\n")
            return found

    def _texts(self) -> dict[tuple[str, str], str]:
        """What is asked, by benchmark and id; fills `unasked` with why the others are not."""
        found: dict[tuple[str, str], str] = {}
        for b in self.benchmarks:
            for q in b.questions:
                text = asked(q.problem, self.replier.form, self.protocol)
                if why := self.replier.refused(text):
                    self.unasked[b.name, q.id] = why
                else:
                    found[b.name, q.id] = text
        for why, n in collections.Counter(self.unasked.values()).items():
            name, id = next(key for key, one in self.unasked.items() if one == why)
            line = f"{n:,} questions {why}, the first of them {name}, {id}"
            check(self.drops, f"{line}: --unasked=drop leaves such out, and counts them")
            self.say(f"{line}: left out")
        check(bool(found), "there is no question left to be asked")
        return found

    def _check_same(self) -> None:
        """k may grow, and benchmarks may be added: replies are kept by what they are of."""
        file = self.out / "evaluation.json"
        mine = {"model": self.replier.name, "form": self.replier.form, **self.identity}
        mine |= {n: v for n, v in dataclasses.asdict(self.protocol).items() if n != "k"}
        if not file.exists():
            held = any(self.out.glob("*.json*")) or (self.out / "checkpoints").exists()
            check(not held, f"--out={self.out}: holds something else: choose another folder")
            write_whole(file, json.dumps(mine, indent=2) + "\n")
            return
        try:
            before = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"{file}: not JSON: {error}") from None
        other = [n for n in mine if before.get(n) != json.loads(json.dumps(mine[n]))]
        if other:
            name = other[0]
            raise InputError(
                f"--out={self.out}: holds an evaluation with {name}={before.get(name)!r}, not "
                f"{mine[name]!r}: choose another folder"
            )

    def _write_questions(self, texts: Mapping[tuple[str, str], str]) -> None:
        rows = []
        for b in self.benchmarks:
            for q in b.questions:
                if text := texts.get((b.name, q.id)):
                    row = {"benchmark": b.name, "id": q.id, "prompt": self.replier.prompt(text)}
                    rows.append(row | {"answer": q.problem.answer, **q.meta})
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(self.out / "questions.jsonl", "".join(lines))

    def _results(self, work: "_Work") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for b in self.benchmarks:
            answered = [a for q in b.questions if (a := work.answered(b, q)) is not None]
            shared = None
            if self.training is not None:
                shared = contamination([a.question for a in answered], self.training)
            unasked = collections.Counter(
                why for (name, _), why in self.unasked.items() if name == b.name
            )
            found[b.name] = results_of(b, answered, unasked, shared)
            if b.benchmark.form == "swebench" and answered and jax.process_index() == 0:
                first = ((a.question.id.partition("/")[2], a.replies[0][0]) for a in answered)
                write_predictions(
                    self.out / "predictions.jsonl",
                    self.replier.name,
                    ((name, reply.completion) for name, reply in first),
                )
        return {
            "model": self.replier.name,
            "conversation": self.replier.form,
            "protocol": dataclasses.asdict(self.protocol),
            **self.identity,
            "benchmarks": found,
        }


class _Work:
    """Replies and grades: those on disk, and those that are being made."""

    def __init__(self, e: Evaluation, texts: Mapping[tuple[str, str], str], writes: bool):
        self.e, self.texts = e, texts
        self.replies = Lines(e.out / REPLIES, writes)
        self.grades = Lines(e.out / "grades.jsonl", writes)
        self._tell_others()
        self._problems = {(b.name, q.id): q.problem for b in e.benchmarks for q in b.questions}
        self._graded = {b.name for b in e.benchmarks if b.benchmark.graded}
        self._chunk: list[Key] = []
        self._pending: collections.deque = collections.deque()

    def close(self) -> None:
        self.replies.close()
        self.grades.close()

    def _tell_others(self) -> None:
        """What the first process has read: the others may not see its disk."""
        if jax.process_count() == 1:
            return
        for lines in (self.replies, self.grades):
            mine = [[*key, row] for key, row in lines.rows.items()]
            for name, id, sample, row in processes.gather(functools.partial(list, mine)):
                lines.rows[Key(name, id, sample)] = row

    def wanted(self) -> list[Key]:
        return [
            Key(b.name, q.id, i)
            for b in self.e.benchmarks
            for q in b.questions
            if (b.name, q.id) in self.texts
            for i in range(k_of(b, self.e.protocol))
        ]

    def go_on(self) -> None:
        """Until every reply that is wanted is there, with its grade."""
        wanted = self.wanted()
        missing = [key for key in wanted if key not in self.replies.rows]
        if len(missing) < len(wanted):
            self.e.say(f"{len(wanted) - len(missing):,} of {len(wanted):,} replies are there")
        for key in wanted:
            if key in self.replies.rows and key not in self.grades.rows:
                self._to_grade(key)
        if missing:
            asks = [Ask(self.texts[key[:2]], number_of(*key[:2]), key.sample) for key in missing]
            done, said = 0, time.monotonic()

            def on_reply(i: int, reply: Reply) -> None:
                nonlocal done, said
                self.replies.add(missing[i], dataclasses.asdict(reply))
                self._to_grade(missing[i])
                done += 1
                if time.monotonic() - said > EVERY and done < len(missing):
                    self.e.say(f"{done:,} of {len(missing):,} replies")
                    said = time.monotonic()

            self.e.replier.draw(asks, on_reply)
        self._submit()
        while self._pending:
            self._collect()

    def _to_grade(self, key: Key) -> None:
        if key.benchmark not in self._graded:
            return
        self._chunk.append(key)
        if len(self._chunk) >= CHUNK:
            self._submit()
            if len(self._pending) > PENDING:
                self._collect()

    def _reply(self, key: Key) -> Reply:
        return reply_of(self.replies.rows[key], self.replies.path)

    def _submit(self) -> None:
        keys, self._chunk = self._chunk, []
        if not keys:
            return
        replies = [self._reply(key) for key in keys]
        finish = grade_shares(
            self.e.grader,
            [self._problems[key[:2]] for key in keys],
            lambda i: replies[i].completion,
            [reply.tokens for reply in replies],
            [reply.truncated for reply in replies],
            lambda text: None,
        )
        self._pending.append((keys, finish))

    def _collect(self) -> None:
        keys, finish = self._pending.popleft()
        for key, (grade, _) in zip(keys, finish(), strict=True):
            self.grades.add(key, dataclasses.asdict(grade))

    def answered(self, b: Asked, question: Question) -> Answered | None:
        if (b.name, question.id) not in self.texts:
            return None
        keys = [Key(b.name, question.id, i) for i in range(k_of(b, self.e.protocol))]
        return Answered(question, [(self._reply(key), self._grade(key)) for key in keys])

    def _grade(self, key: Key) -> Grade | None:
        row = self.grades.rows.get(key)
        return None if row is None else grade_of(row, self.grades.path)
