"""What the replies to a benchmark come to, as plain data."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.data.decontamination import Grams
from r1jax.data.problems import Problem
from r1jax.evaluation.metrics import pass_at_1, pass_curve
from r1jax.evaluation.questions import Asked, Question
from r1jax.evaluation.rating import rate
from r1jax.evaluation.replies import Reply
from r1jax.evaluation.reported import REPORTED
from r1jax.evaluation.votes import VOTING, consensus, vote
from r1jax.rewards.format import final_answer
from r1jax.rewards.grading import Grade
from r1jax.rewards.instructions import follows, loosely

SUBJECTS = 60  # more kinds of question than this are no subjects


class Answered(NamedTuple):
    question: Question
    replies: Sequence[tuple[Reply, Grade | None]]  # None: a benchmark that is not graded here


def results_of(
    asked: Asked,
    answered: Sequence[Answered],
    unasked: Mapping[str, int],
    contaminated: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Of one benchmark.

    Shares are of replies. "truncated": cut at max_tokens, which have no answer; "unparseable":
    ended, and no answer can be read; both are wrong. "grader_failed": left out of every figure,
    since a grader that breaks says nothing of the model. contaminated: the training problem that
    shares words with a question, by the question's id; None: none were given.
    """
    replies = [one for a in answered for one in a.replies]
    k = max((len(a.replies) for a in answered), default=0)
    tokens = np.array([reply.tokens for reply, _ in replies], float)
    thinking = np.array([reply.thinking_tokens for reply, _ in replies], float)
    found: dict[str, Any] = {
        "title": asked.benchmark.title,
        "metric": asked.benchmark.metric if asked.benchmark.graded else "predictions",
        "file": asked.path,
        "questions": len(answered),
        "left_out": {**asked.left_out, **unasked},
        "k": k,
        "replies": len(replies),
        "truncated": _mean([reply.truncated for reply, _ in replies]),
        "tokens": {"mean": _mean(tokens), "median": _median(tokens)},
        "thinking_tokens": {"mean": _mean(thinking), "median": _median(thinking)},
    }
    if asked.benchmark.graded:
        found |= _graded(asked, answered, contaminated)
    found["reported"] = [f._asdict() for f in REPORTED.get(asked.name, ())]
    if also := REPORTED.get(f"{asked.name}/cons@64"):
        found["reported_cons@64"] = [f._asdict() for f in also]
    return found


def _graded(
    asked: Asked, answered: Sequence[Answered], contaminated: Mapping[str, str] | None
) -> dict[str, Any]:
    grades = [(r, g) for a in answered for r, g in a.replies if g is not None]
    outcome = Counter(g.outcome for _, g in grades)
    silent = sum(g.outcome == "unparseable" and not r.truncated for r, g in grades)
    n_Q, c_Q = counts_of(answered)
    told = n_Q > 0
    found: dict[str, Any] = {
        "unparseable": silent / len(grades) if grades else None,
        "grader_failed": outcome["failed"] / len(grades) if grades else None,
        "format": _mean([g.components["format"] for _, g in grades if g.graded]),
        "outcomes": dict(outcome),
        **_pass_1(n_Q, c_Q),
        "pass@k": {str(k): v for k, v in pass_curve(n_Q[told], c_Q[told]).items()},
    }
    if all(a.question.problem.kind in VOTING for a in answered):
        found["cons@k"] = _cons(answered)
    subjects = defaultdict(list)
    for i, a in enumerate(answered):
        subjects[a.question.meta.get("subject", "")].append(i)
    if 1 < len(subjects) <= SUBJECTS:
        found["subjects"] = {
            name: _pass_1(n_Q[rows], c_Q[rows]) for name, rows in sorted(subjects.items())
        }
    if asked.benchmark.rated:
        found["rating"] = _rating(answered, n_Q, c_Q)
    if any(a.question.problem.kind == "instructions" for a in answered):
        found["instructions"] = _instructions(answered)
    if contaminated is not None:
        clean = np.array([a.question.id not in contaminated for a in answered], bool)
        found["contaminated"] = {
            "questions": {
                a.question.id: contaminated[a.question.id]
                for a in answered
                if a.question.id in contaminated
            },
            "share": _mean(~clean),
            "without": _pass_1(n_Q[clean], c_Q[clean]),
        }
    return found


def counts_of(answered: Sequence[Answered]) -> tuple[np.ndarray, np.ndarray]:
    """(n_Q, c_Q): of each question, replies that were graded, and right ones."""
    n = [sum(g is not None and g.graded for _, g in a.replies) for a in answered]
    c = [sum(g is not None and g.outcome == "correct" for _, g in a.replies) for a in answered]
    return np.array(n, int), np.array(c, int)


def _pass_1(n_Q: np.ndarray, c_Q: np.ndarray) -> dict[str, Any]:
    found = pass_at_1(n_Q, c_Q)
    return {
        "pass@1": found and found.value,
        "low": found and found.low,
        "high": found and found.high,
        "se_questions": found and found.se_questions,
        "se_samples": found and found.se_samples,
        "of": int((n_Q > 0).sum()),
    }


def _cons(answered: Sequence[Answered]) -> dict[str, Any]:
    """By k, over questions that have a graded reply: the value, and the share of ties."""
    votes = [
        [vote(a.question.problem, g) for _, g in a.replies if g is not None and g.graded]
        for a in answered
    ]
    votes = [some for some in votes if some]
    most = min(map(len, votes), default=0)
    wanted = sorted({k for k in (4, 16, 64, most) if 1 < k <= most})
    found = {}
    for k in wanted:
        each = [consensus(some, k) for some in votes]
        found[str(k)] = {
            "value": _mean([c.value for c in each]),
            "ties": _mean([c.ties for c in each]),
        }
    return found


def _rating(answered: Sequence[Answered], n_Q: np.ndarray, c_Q: np.ndarray) -> dict[str, Any]:
    rated = [i for i, a in enumerate(answered) if n_Q[i] and "rating" in a.question.meta]
    difficulty = np.array([answered[i].question.meta["rating"] for i in rated])
    found = rate(difficulty, c_Q[rated] / n_Q[rated] if rated else np.zeros(0))
    return {
        "method": "maximum likelihood of Elo's formula over problem ratings; 95% interval by "
        "likelihood ratio (r1jax/evaluation/rating.py)",
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "problems": found.problems,
    }


def _instructions(answered: Sequence[Answered]) -> dict[str, Any]:
    """IFEval's four: of prompts and of instructions, strict and loose. A reply that was cut follows
    none."""
    found: dict[str, list[bool]] = defaultdict(list)
    for a in answered:
        told = _told(a.question.problem)
        for reply, _ in a.replies:
            text = "" if reply.truncated else final_answer(reply.completion, "instructions") or ""
            for how, rule in (("strict", follows), ("loose", loosely)):
                kept = [rule(text, name, arguments) for name, arguments in told]
                found[f"prompt_{how}"].append(all(kept))
                found[f"instruction_{how}"] += kept
    return {name: _mean(values) for name, values in found.items()}


def _told(problem: Problem) -> list[tuple[str, dict[str, Any]]]:
    return [(name, arguments) for name, arguments in json.loads(problem.answer)]


def contamination(questions: Sequence[Question], training: Sequence[Problem]) -> dict[str, str]:
    """Of each question that shares words with a training problem (see `decontamination`), by id:
    the id of the first such problem."""
    grams = Grams([question.problem for question in questions])
    found: dict[str, str] = {}
    for problem in training:
        for name in grams.shared_with(problem):
            found.setdefault(name, problem.id)
    return found


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _median(values: Any) -> float | None:
    return float(np.median(values)) if len(values) else None
