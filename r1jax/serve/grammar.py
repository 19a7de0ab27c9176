"""Grammars of answers: JSON of a schema, and tool calls in R1-0528's form; by llguidance, which
says which tokens may come next."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from r1jax.data.tokenizer import Tokenizer
from r1jax.serve.asks import Tool
from r1jax.serve.errors import Refused, bad
from r1jax.serve.tools import CALL, CALL_END, CALLS, CALLS_END, SEP

MOST = 2**18  # characters of a grammar
# A poor model would go on with blanks until the end.
BLANKS = {"whitespace_pattern": r"[ \n]{0,12}"}
BEGIN = r"start: /[ \n]{0,3}/ answer"  # behind a thought come two line ends


class Matcher:
    """Of one reply."""

    def __init__(self, tokenizer: Any, grammar: str, end: np.ndarray):
        from llguidance import LLMatcher

        self._matcher, self._end = LLMatcher(tokenizer, grammar, log_level=0), end

    @property
    def error(self) -> str:
        return self._matcher.get_error() if self._matcher.is_error() else ""

    def next(self) -> np.ndarray:
        """A bit a token; once nothing may follow, of those that end a reply."""
        if self._matcher.is_stopped() or self._matcher.is_error():
            return self._end
        may = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        may = may[: self._end.size]  # it has a word more where 32 divides the vocabulary
        return may if may.any() else self._end

    def feed(self, tokens: Sequence[int]) -> None:
        if not self._matcher.is_stopped():
            self._matcher.consume_tokens(list(tokens))


class Grammars:
    """For a tokenizer and a model's vocabulary."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, form: str):
        from llguidance import LLTokenizer

        self._own, self._vocab = tokenizer, vocab
        self.end = bits(tokenizer.end_ids, vocab)
        ends = sorted(tokenizer.end_ids)
        # Of what it takes, the words have what is read: its own wrapper is for other tokenizers.
        given: Any = Words(tokenizer) if form == "embedded" else tokenizer.to_json()
        self._tokenizer = LLTokenizer(given, n_vocab=vocab, eos_token=ends)

    def json(self, schema: Any) -> str:
        """The grammar of an answer that is JSON of this schema."""
        return f"{BEGIN}\nanswer: {_json(schema)}\n"

    def calls(self, tools: Sequence[Tool], parallel: bool) -> str:
        """The grammar of an answer that calls some of these."""
        lines = [
            BEGIN,
            f"answer: {self._mark(CALLS)} call {self._more(parallel)} {self._mark(CALLS_END)}",
            f'call: {self._mark(CALL)} "function" {self._mark(SEP)} one "\\n```" '
            f"{self._mark(CALL_END)}",
            "one: " + " | ".join(f"tool_{i}" for i in range(len(tools))),
        ]
        for i, tool in enumerate(tools):
            head = json.dumps(f"{tool.name}\n```json\n", ensure_ascii=False)
            lines.append(f"tool_{i}: {head} {_json(tool.schema)}")
        return "\n".join(lines) + "\n"

    def _more(self, parallel: bool) -> str:
        return '("\\n" call)*' if parallel else ""

    def _mark(self, name: str) -> str:
        """Of a token where it is one, else its text."""
        token = self._own.id_of(name)
        return f"<[{token}]>" if token is not None else json.dumps(name, ensure_ascii=False)

    def matcher(self, grammar: str, param: str) -> Matcher:
        """Raises Refused that names `param`, for a grammar that there is none of or that the
        vocabulary cannot write."""
        if len(grammar) > MOST:
            raise bad(param, f"{param} is too long: {len(grammar):,} characters, at most {MOST:,}")
        made = Matcher(self._tokenizer, grammar, self.end)
        if made.error:
            raise bad(param, f"{param}: {' '.join(made.error.split())[:300]}")
        if not np.any(made.next() & ~self.end):
            raise bad(param, f"{param}: the words that this model knows cannot write it")
        return made


def load(tokenizer: Tokenizer, vocab: int, form: str) -> Grammars:
    """Raises Refused where llguidance is not there, or cannot read the tokenizer."""
    try:
        return Grammars(tokenizer, vocab, form)
    except ImportError:
        raise Refused(501, "constrained answers need llguidance: pip install '.[serve]'") from None


def bits(tokens: Any, vocab: int) -> np.ndarray:
    """A bit a token, set of these."""
    may = np.zeros(-(-vocab // 32) * 32, bool)
    may[list(tokens)] = True
    return np.packbits(may, bitorder="little").view(np.uint32)


def _json(schema: Any) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": BLANKS})


class Words:
    """A vocabulary of words, as llguidance asks for one."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer):
        self.tokens = [tokenizer.bytes_of(i) or b"\xff" for i in range(tokenizer.vocab_size)]
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        self.special_token_ids = sorted(tokenizer.special_ids())
        self._tokenizer = tokenizer

    def __call__(self, text: Any) -> list[int]:
        return self._tokenizer.encode(text.decode() if isinstance(text, bytes) else text)
