"""An evaluation: draws what is missing, grades what has no grade, and puts the figures together.

    OUT/evaluation.json   what was asked for; another request needs another folder
    OUT/questions.jsonl   every question as the model read it
    OUT/replies.jsonl, grades.jsonl   (r1jax/evaluation/work.py)
    OUT/results.json      the figures

More benchmarks, questions or replies may be asked for later, in the same folder.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from r1jax.data.problems import Problem
from r1jax.evaluation.local import Replier
from r1jax.evaluation.protocol import Protocol
from r1jax.evaluation.questions import Asked, Question
from r1jax.evaluation.replies import Key
from r1jax.evaluation.results import Answered, contamination, results_of
from r1jax.evaluation.swebench import write_predictions
from r1jax.evaluation.work import Job, Name, Work, check_same, identity_of, texts_of
from r1jax.files import write_whole
from r1jax.rewards.grading import Grader


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

    def run(self) -> dict[str, Any]:
        """The results, which are written to OUT/results.json, too.

        Raises InputError for a question that cannot be asked or graded, before anything is drawn;
        for a folder that holds another evaluation; and as the replier does, with all replies kept.
        """
        every = {(b.name, q.id): q.problem for b in self.benchmarks for q in b.questions}
        texts, unasked = texts_of(every, self.replier, self.protocol, self.drops, self.say)
        are_graded = {b.name for b in self.benchmarks if b.benchmark.graded}
        graded = {name: problem for name, problem in every.items() if name[0] in are_graded}
        job = Job(self.replier, self.grader, self.out, texts, graded, self.say)
        wanted = [
            Key(b.name, q.id, i)
            for b in self.benchmarks
            for q in b.questions
            if (b.name, q.id) in texts
            for i in range(k_of(b, self.protocol))
        ]

        def first() -> None:
            identity = identity_of(self.replier, self.protocol, self.identity)
            check_same(self.out, "evaluation.json", "an evaluation", identity)
            self._write_questions(texts)

        with job.opened(first) as work:
            work.go_on(wanted)
            found = self._results(work, unasked)
            if jax.process_index() == 0:
                write_whole(self.out / "results.json", json.dumps(found, indent=2) + "\n")
            return found

    def _write_questions(self, texts: Mapping[Name, str]) -> None:
        rows = []
        for b in self.benchmarks:
            for q in b.questions:
                if text := texts.get((b.name, q.id)):
                    row = {"benchmark": b.name, "id": q.id, "prompt": self.replier.prompt(text)}
                    rows.append(row | {"answer": q.problem.answer, **q.meta})
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(self.out / "questions.jsonl", "".join(lines))

    def _results(self, work: Work, why: Mapping[Name, str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for b in self.benchmarks:
            answered = [a for q in b.questions if (a := self._answered(work, b, q)) is not None]
            shared = None
            if self.training is not None:
                shared = contamination([a.question for a in answered], self.training)
            unasked = collections.Counter(one for (name, _), one in why.items() if name == b.name)
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

    def _answered(self, work: Work, b: Asked, question: Question) -> Answered | None:
        if (b.name, question.id) not in work.job.texts:
            return None
        keys = [Key(b.name, question.id, i) for i in range(k_of(b, self.protocol))]
        return Answered(question, [(work.reply(key), work.grade(key)) for key in keys])
