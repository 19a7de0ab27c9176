"""Replies to questions and their grades: those that a folder holds, and the others, which are drawn
and graded now. Evaluation and rejection sampling are both made of this.

    OUT/replies.jsonl   a line a reply, appended when it ends
    OUT/grades.jsonl    a line a grade; remove it to grade the same replies again. The last one of
                        a reply counts: one whose problem has changed is made anew

All replies come from one engine, side by side, and are graded meanwhile. What is there already is
not drawn again, so that more questions or replies may be asked for later, and a kill loses no more
than what was under way. Every process of a pod draws and grades its share; the first one writes.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from r1jax import processes
from r1jax.checks import InputError, check
from r1jax.data.problems import Problem
from r1jax.evaluation.local import Ask, Replier
from r1jax.evaluation.protocol import Protocol, asked
from r1jax.evaluation.questions import number_of
from r1jax.evaluation.replies import Key, Lines, Reply, grade_of, reply_of
from r1jax.files import write_whole
from r1jax.lock import locked
from r1jax.rewards.grading import Grade, Grader
from r1jax.rewards.shares import grade_shares

REPLIES = "replies.jsonl"
CHUNK = 64  # replies that are graded together
EVERY = 10.0  # seconds between two lines of progress
PENDING = 16  # chunks that may wait for their grades while others are drawn

Name = tuple[str, str]  # of a question: its benchmark and its id


def digest(text: str) -> str:
    """What the lines of a reply and its grade keep of what was asked."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def texts_of(
    problems: Mapping[Name, Problem],
    replier: Replier,
    protocol: Protocol,
    drops: bool,
    say: Callable[[str], None],
) -> tuple[dict[Name, str], dict[Name, str]]:
    """(what is asked of each problem, why the others cannot be asked). Raises InputError for one
    that cannot, unless `drops`, and if none is left."""
    texts: dict[Name, str] = {}
    unasked: dict[Name, str] = {}
    for name, problem in problems.items():
        text = asked(problem, replier.form, protocol)
        if why := replier.refused(text):
            unasked[name] = why
        else:
            texts[name] = text
    for why, n in collections.Counter(unasked.values()).items():
        first = ", ".join(next(name for name, one in unasked.items() if one == why))
        line = f"{n:,} questions {why}, the first of them {first}"
        added = protocol.directives and replier.form == "chat"
        every = n == len(problems) and added
        way = "--directives=false asks without the words that are added to them" if every else ""
        check(drops, f"{line}: {way or '--unasked=drop leaves such out, and counts them'}")
        say(f"{line}: left out")
    check(bool(texts), "there is no question left to be asked")
    return texts, unasked


def identity_of(replier: Replier, protocol: Protocol, others: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for two callers to share a folder; k may grow."""
    how = {n: v for n, v in dataclasses.asdict(protocol).items() if n != "k"}
    return {"model": replier.name, "form": replier.form, **others, **how}


def check_same(out: Path, name: str, what: str, identity: Mapping[str, Any]) -> None:
    """Leaves OUT/NAME, or finds in it what was left. Raises InputError for a folder that holds
    something else than `what`, or another of it."""
    file = out / name
    if not file.exists():
        held = any(out.glob("*.json*")) or (out / "checkpoints").exists()
        check(not held, f"--out={out}: holds something else: choose another folder")
        write_whole(file, json.dumps(identity, indent=2) + "\n")
        return
    try:
        before = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from None
    other = [n for n in identity if before.get(n) != json.loads(json.dumps(identity[n]))]
    if other:
        field = other[0]
        raise InputError(
            f"--out={out}: holds {what} with {field}={before.get(field)!r}, not "
            f"{identity[field]!r}: choose another folder"
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """What is drawn and graded in the folder `out`. texts: what is asked, by name. graded: the
    problems whose replies get a grade; others get none. say: is told a line now and then."""

    replier: Replier
    grader: Grader
    out: Path
    texts: Mapping[Name, str]
    graded: Mapping[Name, Problem]
    say: Callable[[str], None] = print

    @contextlib.contextmanager
    def opened(self, first: Callable[[], None]) -> Iterator["Work"]:
        """The folder is held meanwhile; `first` is called in the process that writes. Raises
        InputError if a problem cannot be graded, and as `first` and `Lines` do."""
        writes = jax.process_index() == 0
        with contextlib.ExitStack() as stack:

            def ready() -> list:
                """In every process, or in none: the others would wait for ever."""
                self.grader.require(list(self.graded.values()), self.say)
                if writes:
                    stack.enter_context(locked(self.out))
                    first()
                return []

            processes.gather(ready)
            work = Work(self, writes)
            stack.callback(work.close)
            yield work


class Work:
    """Replies and grades: those on disk, and those that are being made."""

    def __init__(self, job: Job, writes: bool):
        self.job = job
        self.replies = Lines(job.out / REPLIES, writes)
        self.grades = Lines(job.out / "grades.jsonl", writes)
        self._tell_others()
        self._problems = {name: digest(repr(problem)) for name, problem in job.graded.items()}
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

    def go_on(self, wanted: Sequence[Key]) -> None:
        """Until every reply that is wanted is there, with its grade."""
        missing = [key for key in wanted if key not in self.replies.rows]
        for key in wanted:
            self._check_asked(key)
        if len(missing) < len(wanted):
            self.job.say(f"{len(wanted) - len(missing):,} of {len(wanted):,} replies are there")
        for key in wanted:
            if key in self.replies.rows and not self._is_graded(key):
                self._to_grade(key)
        if missing:
            self._draw(missing)
        self._submit()
        while self._pending:
            self._collect()

    def _check_asked(self, key: Key) -> None:
        """Raises InputError for a reply to what the question no longer is."""
        found = self.replies.rows.get(key, {}).get("asked")
        same = found in (None, digest(self.job.texts[key[:2]]))  # an older version's does not say
        name, id, _ = key
        check(
            same,
            f"{self.replies.path}: the reply to {name} {id} is to another text than it is asked "
            "now: the file of problems has changed; choose another folder",
        )

    def _is_graded(self, key: Key) -> bool:
        row, name = self.grades.rows.get(key), key[:2]
        if row is None:
            return False
        return name not in self.job.graded or row.get("problem") in (None, self._problems[name])

    def _draw(self, missing: Sequence[Key]) -> None:
        texts = self.job.texts
        asks = [Ask(texts[key[:2]], number_of(*key[:2]), key.sample) for key in missing]
        done, tokens, began = 0, 0, time.monotonic()
        said = began

        def on_reply(i: int, reply: Reply) -> None:
            nonlocal done, tokens, said
            asked = {"asked": digest(asks[i].text)}
            self.replies.add(missing[i], dataclasses.asdict(reply) | asked)
            self._to_grade(missing[i])
            done, tokens = done + 1, tokens + reply.tokens
            if time.monotonic() - said > EVERY and done < len(missing):
                self.job.say(f"{done:,} of {len(missing):,} replies")
                said = time.monotonic()

        self.job.replier.draw(asks, on_reply)
        took = time.monotonic() - began
        self.job.say(
            f"drew {done:,} replies of {tokens:,} tokens in {took:.1f} s: {tokens / took:,.0f} "
            f"tokens/s, {done / took:,.1f} replies/s"
        )

    def _to_grade(self, key: Key) -> None:
        if key[:2] not in self.job.graded:
            return
        self._chunk.append(key)
        if len(self._chunk) >= CHUNK:
            self._submit()
            if len(self._pending) > PENDING:
                self._collect()

    def _submit(self) -> None:
        keys, self._chunk = self._chunk, []
        if not keys:
            return
        replies = [self.reply(key) for key in keys]
        finish = grade_shares(
            self.job.grader,
            [self.job.graded[key[:2]] for key in keys],
            lambda i: replies[i].completion,
            [reply.tokens for reply in replies],
            [reply.truncated for reply in replies],
            lambda text: None,
        )
        self._pending.append((keys, finish))

    def _collect(self) -> None:
        keys, finish = self._pending.popleft()
        for key, (grade, _) in zip(keys, finish(), strict=True):
            of = {"problem": self._problems[key[:2]]}
            self.grades.add(key, dataclasses.asdict(grade) | of)

    def reply(self, key: Key) -> Reply:
        return reply_of(self.replies.rows[key], self.replies.path)

    def grade(self, key: Key) -> Grade | None:
        """None of a problem that is not graded."""
        row = self.grades.rows.get(key)
        return None if row is None else grade_of(row, self.grades.path)
