"""Counting reflective terms, the words by which DeepSeek-R1's authors track self-checking.

The ten words are those of Extended Data Fig. 1 of the Nature article (645:633), which reports
that their count rises 5-7x over R1-Zero's training, with "wait" near absent until step 4,000.

A term is counted where it stands as a whole word, in any case, and only in the form listed:
"Wait," counts, "waiting", "checked" and "errors" do not, since the article lists words and
mentions no stemming.

The article does not say what its counts are divided by. Since the replies grow several times
longer during training, a count per reply rises even if the density of the words stays the same,
so both are given: per response, and per 1,000 tokens.
"""

import re
from collections.abc import Mapping, Sequence

REFLECTIVE_TERMS = (
    "wait",
    "mistake",
    "however",
    "but",
    "retry",
    "error",
    "verify",
    "wrong",
    "evaluate",
    "check",
)

TERM_PATTERN = re.compile(rf"\b({'|'.join(REFLECTIVE_TERMS)})\b", re.IGNORECASE)


# Tasks, and kinds of problem, whose reply is a text and not the solution of a problem.
_NO_THOUGHTS = ("stories", "words")


def has_thoughts(task: str) -> bool:
    """Whether replies to `task` (RunConfig.task, or a problem's kind) hold a chain of thought.

    Where they hold none, as in a story, "but" and "wait" are words like others: nothing about
    reflection is then to be said, drawn or logged.
    """
    return task not in _NO_THOUGHTS


def count_terms(text: str) -> dict[str, int]:
    """Occurrences of each reflective term in `text`, zeros included."""
    counts = dict.fromkeys(REFLECTIVE_TERMS, 0)
    for word in TERM_PATTERN.findall(text):
        counts[word.lower()] += 1
    return counts


def reflection_metrics(
    counts: Sequence[Mapping[str, int]], token_counts: Sequence[int]
) -> dict[str, float]:
    """The `reflection/*` metrics of one batch of replies, from the `count_terms` of each.

    `per_response` is the mean number of terms in a reply, `fraction` the share of replies with
    at least one, in [0, 1]; the two `per_1k_tokens` divide by the tokens of the whole batch, so
    a long reply weighs as much as its length. Raises ValueError unless there is one positive
    token count for every reply, and at least one reply.
    """
    if not counts or len(counts) != len(token_counts) or min(token_counts) < 1:
        raise ValueError(
            f"need as many positive token counts as replies, and at least one: got {len(counts)} "
            f"replies and token counts {list(token_counts)[:8]}"
        )
    totals = [sum(count.values()) for count in counts]
    thousands = sum(token_counts) / 1000
    return {
        "reflection/per_response": sum(totals) / len(counts),
        "reflection/per_1k_tokens": sum(totals) / thousands,
        "reflection/fraction": sum(total > 0 for total in totals) / len(counts),
        "reflection/wait_per_1k_tokens": sum(count["wait"] for count in counts) / thousands,
    }
