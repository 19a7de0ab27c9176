"""One reply as it comes in: tokens to text, the thought apart from the answer, and where it ends.

What is told is certain: never a piece of a tag or of a stop string, nor half a character, and all
pieces joined are the text of the whole.
"""

from collections.abc import Sequence

from r1jax.data.chat import Split, ThinkingSplitter, opens_thinking, overlap
from r1jax.data.conversation import Conversation


class StopStrings:
    """Ends a text before the first of some strings; `hit` says whether one came."""

    def __init__(self, strings: Sequence[str]):
        self._strings, self._held, self.hit = tuple(strings), "", False

    def feed(self, text: str) -> str:
        """What is now certain to stand before any of them."""
        text, self._held = self._held + text, ""
        places = [at for s in self._strings if (at := text.find(s)) >= 0]
        if places:
            self.hit = True
            return text[: min(places)]
        cut = len(text) - max((overlap(text, s) for s in self._strings), default=0)
        text, self._held = text[:cut], text[cut:]
        return text

    def flush(self) -> str:
        """What was held back, at the end: it was none of them."""
        text, self._held = self._held, ""
        return text


class Reading:
    """Of a reply to `prompt`, whose tokens are `ids`, of at most max_tokens.

    stop: strings that end the answer, and are not of it; a thought may hold them. The token that
    completes one is the reply's last. apart: whether a thought is told apart; else all is answer.
    finish_reason is empty until the reply has ended.
    """

    def __init__(
        self,
        conversation: Conversation,
        prompt: str,
        ids: Sequence[int],
        max_tokens: int,
        stop: Sequence[str] = (),
        apart: bool = True,
    ):
        self._conversation, self._prompt, self._max_tokens = conversation, prompt, max_tokens
        self._decoder = conversation.tokenizer.stream(skip_special_tokens=True)
        for token in ids:  # the first token of a text loses its blank; a reply goes on with one
            self._decoder.feed(token)
        self._decoder.flush()
        self._splitter = ThinkingSplitter(opens_thinking(prompt)) if apart else None
        self._stops = StopStrings(stop)
        self._ids: list[int] = []
        self.thinking = self.text = self.finish_reason = ""
        self.reasoning_tokens = 0  # the tags included

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @property
    def thinks(self) -> bool:
        """Whether it is, or ended, inside of its thought."""
        return self._splitter is not None and self._splitter.inside

    @property
    def completion(self) -> str:
        """The whole, as RL hands it to graders."""
        return self._conversation.reply(self._prompt, self._ids) if self._ids else ""

    def feed(self, tokens: Sequence[int]) -> Split:
        """What is new, of thinking and of answer. What comes after the reply's end is ignored."""
        thinking = text = ""
        for token in tokens:
            if self.finish_reason:
                break
            new = self._one(token)
            thinking, text = thinking + new.thinking, text + new.answer
        self.thinking += thinking
        self.text += text
        return Split(thinking, text)

    def _one(self, token: int) -> Split:
        self._ids.append(token)
        stopped = token in self._conversation.tokenizer.end_ids
        last = stopped or self.tokens == self._max_tokens
        piece = "" if stopped else self._decoder.feed(token)
        if last:
            self.finish_reason = "stop" if stopped else "length"
            piece += self._decoder.flush()
        thinking, text = self._split(piece, last)
        text = self._stops.feed(text)
        if self._stops.hit:
            self.finish_reason = "stop"
        elif last:
            text += self._stops.flush()
        return Split(thinking, text)

    def _split(self, piece: str, last: bool) -> Split:
        splitter = self._splitter
        if splitter is None:
            return Split("", piece)
        answering = splitter.answering
        thinking, text = splitter.feed(piece)
        if not answering:  # the tag is of the thought; without a thought, all is answer
            self.reasoning_tokens = self.tokens if splitter.inside or splitter.closed else 0
        if last:
            rest = splitter.flush()
            thinking, text = thinking + rest.thinking, text + rest.answer
        if splitter.closed and not self._answered:  # the blank lines between the two
            text = text.lstrip()
        self._answered = self._answered or bool(text)
        return Split(thinking, text)

    _answered = False  # whether the answer has begun
