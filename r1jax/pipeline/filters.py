r"""Why a reply is not fit to be learnt from: the filters of R1's third stage.

"We have filtered out chain-of-thought with mixed languages, long paragraphs, and code blocks. For
each prompt, we sample multiple responses and retain only the correct ones" (arXiv 2501.12948v1,
section 2.3.3). How mixed, how long and how repetitive is unreported: every number here is a field.
"""

import dataclasses
import re

from r1jax.checks import check
from r1jax.data.decontamination import Grams
from r1jax.data.problems import Problem
from r1jax.evaluation.replies import Reply
from r1jax.rewards.components import Checked, thought
from r1jax.rewards.grading import Grade
from r1jax.rewards.language import check_language, count_words
from r1jax.rewards.shaping import repetition_penalty

# The reasons, in the order in which they are looked for: the first that applies is a reply's.
REASONS: dict[str, str] = {
    "grader failed": "nobody knows whether it is right",
    "cut": "it reached the limit of tokens",
    "no answer": "none can be read from it",
    "wrong": "its answer is",
    "out of form": "no thought, no summary, or tags where none belong",
    "mixed language": "too few words of its thought are in the language",
    "long paragraph": "of its thought",
    "code block": "in its thought",
    "repetition": "too much of it stands there before",
    "contaminated": "it shares words with a benchmark",
    "duplicate": "another reply to the problem says the same",
    "surplus": "enough others to the problem are kept",
}

_PARAGRAPH = re.compile(r"\n\s*\n")
_FENCE = re.compile(r"```|^~~~", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Limits beyond which a reply is dropped; those of a thought are of what stands before its
    `</think>`, and of the whole text where the kind has no thoughts."""

    language: str = "en"  # of a thought; empty: any, and mixed
    min_language: float = 0.9  # share of a thought's words; a thought without a word is not mixed
    max_paragraph: int = 2000  # characters between blank lines of a thought; 0: any
    code_blocks: bool = False  # whether a thought may hold some
    #: Share of the reply's runs of 20 words that stand in it before; 1: any.
    max_repetition: float = 0.2
    any_form: bool = False  # whether a reply may lack its thought or its summary

    def __post_init__(self):
        if self.language:
            check_language(self.language)
        for name in ("min_language", "max_repetition"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"FilterConfig.{name} must lie in [0, 1], got {value}")
        at_least = f"FilterConfig.max_paragraph must not be negative, got {self.max_paragraph}"
        check(self.max_paragraph >= 0, at_least)


RUN = 20  # words: honest thoughts say the same step again, in shorter runs than this


def fault(
    problem: Problem, reply: Reply, grade: Grade, filters: FilterConfig, grams: Grams | None = None
) -> tuple[str, str]:
    """(the first of REASONS that applies to this reply by itself, what was found), or ("", "").

    grams: of the benchmarks that nothing may be shared with.
    """
    verdict = _verdict(reply, grade)
    if verdict[0]:
        return verdict
    if not filters.any_form and grade.components["format"] < 1:
        return "out of form", ""
    whole = Checked(problem, reply.completion, grade.outcome, grade.credit, reply.tokens)
    if found := _of_thought(thought(whole), filters):
        return found
    again = -repetition_penalty(reply.completion, RUN)
    if again > filters.max_repetition:
        return "repetition", f"{again:.1%} of its runs of {RUN} words"
    shared = grams.match(dataclasses.replace(problem, prompt=reply.completion)) if grams else None
    if shared is not None:
        return "contaminated", f"shares with {shared.evaluation}: {shared.words}"
    return "", ""


def _verdict(reply: Reply, grade: Grade) -> tuple[str, str]:
    if grade.outcome == "correct":
        return "", ""
    if grade.outcome == "failed":
        return "grader failed", grade.detail
    if reply.truncated:
        return "cut", f"at {reply.tokens:,} tokens"
    if grade.outcome == "unparseable":
        return "no answer", ""
    return "wrong", f"answers {grade.answer!r:.100}"


def _of_thought(text: str, filters: FilterConfig) -> tuple[str, str] | None:
    if filters.language:
        ours, words = count_words(text, filters.language)
        if ours < filters.min_language * words:
            return "mixed language", f"{ours:,} of {words:,} words are {filters.language}"
    longest = max(map(len, _PARAGRAPH.split(text)))
    if filters.max_paragraph and longest > filters.max_paragraph:
        return "long paragraph", f"{longest:,} characters"
    if not filters.code_blocks and _FENCE.search(text):
        return "code block", ""
    return None
