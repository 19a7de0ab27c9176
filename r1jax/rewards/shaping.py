"""What a reply loses for repeating itself and for running out of room."""

import regex

from r1jax.checks import check

NGRAM = 3  # words; open-r1's default
# Where words are written without blanks, each character counts as one.
_TOKEN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]|[^\s\p{Han}\p{Hiragana}\p{Katakana}]+")


def repetition_penalty(text: str, n: int = NGRAM) -> float:
    """Minus the share of the text's n-grams of words that it has used before, in (-1, 0].

    0 where no n words recur, or there are fewer than n; near -1 for a loop. This is the `n-gram
    repetition penalty` of "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373,
    section 4.3) as open-r1 gives it (get_repetition_penalty_reward, with max_penalty = -1): for
    the reply as a whole, not token by token. Natural prose repeats some triples, so that a long
    honest reply loses a little too: weigh it accordingly.
    """
    check(n > 0, f"repetition_penalty: n must be positive, got {n}")
    words = _TOKEN.findall(text.lower())
    count = len(words) - n + 1
    if count <= 0:
        return 0.0
    unique = len(set(zip(*(words[i:] for i in range(n)), strict=False)))
    return unique / count - 1


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13), in [-1, 0].

    0 up to max_length - buffer tokens, falling linearly to -1 at max_length, -1 beyond.
    """
    check(0 < buffer <= max_length, f"buffer must be in 1..{max_length}, got {buffer}")
    return min(0.0, max(-1.0, (max_length - buffer - length) / buffer))
