"""References that no answer can be compared with: found before a run, which would fail at each."""

from collections.abc import Callable, Sequence

from r1jax.checks import check
from r1jax.data.problems import Problem
from r1jax.rewards.checks import quick_verdict
from r1jax.rewards.math import unreadable
from r1jax.rewards.rational import compare_numbers
from r1jax.rewards.workers import WorkerDied, Workers

PROBE = "1"  # an answer that references are tried with
SHOWN = 5  # problems that are named


def find_unreadable(problems: Sequence[Problem], workers: Workers) -> list[Problem]:
    """Those at whose reference the check of any answer would fail. Formulas are parsed in workers:
    MATH's 500 take some 3 s together."""
    formulas = {
        p.answer
        for p in problems
        if p.kind == "math" and compare_numbers(p.answer, p.answer) is None
    }
    jobs = {text: workers.submit(unreadable, text) for text in formulas}
    bad = set()
    for text, job in jobs.items():
        try:
            if workers.result(job):
                bad.add(text)
        except (TimeoutError, WorkerDied):  # which says nothing about the reference
            continue
    return [p for p in problems if (p.kind == "math" and p.answer in bad) or _breaks_its_rule(p)]


def _breaks_its_rule(problem: Problem) -> bool:
    """Whether the quick check of any answer to it fails."""
    if problem.kind not in ("countdown", "choice", "words"):
        return False
    verdict = quick_verdict(problem, PROBE)
    return verdict is not None and verdict.outcome == "failed"


def report_unreadable(found: Sequence[Problem], count: int, say: Callable[[str], None]) -> None:
    """Says which of `count` problems have references that cannot be read; InputError if all."""
    if not found:
        return
    shown = ", ".join(f"{p.id} ({p.answer!r:.40})" for p in found[:SHOWN])
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    line = f"of {count:,} references, {len(found):,} cannot be read: {shown}{more}"
    check(len(found) < count, line)
    say(f"warning: {line}")
