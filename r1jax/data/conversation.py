"""How a model is asked and answers: the prompt made of a question, how a reply to it begins, what
is trained on behind it, and which token ends it.

One of these goes with a model through fine-tuning, RL and generation, so that all of them show it
the same text:

    chat      the chat template in the model's folder
    r1_zero   R1-Zero's prompt (arXiv 2501.12948v1, Table 1), for a base model
    plain     the question as it stands, for a model that goes on with a text
    embedded  the embedded task's few words, the thought already open
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from r1jax.checks import InputError, check
from r1jax.config import ConversationName
from r1jax.data import templates
from r1jax.data.chat import (
    CLOSE,
    OPEN,
    ChatTemplate,
    Message,
    opens_thinking,
    read_messages,
)
from r1jax.data.tokenizer import Tokenizer

Form = Literal["plain", "r1_zero", "chat", "embedded"]
# How each form's replies look, for people.
LOOKS: dict[Form, str] = {
    "chat": "a thought and then the answer",
    "r1_zero": "<think> and <answer> tags",
    "embedded": "the embedded model's words",
    "plain": "a text that goes on",
}
_TOKEN = re.compile(r"<[|｜][^<>\s]+[|｜]>")  # how DeepSeek, Qwen and Llama write special tokens
_PROBE = "probe"


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Made by `make_conversation`. `tokenizer` knows the token that ends a turn as one that ends a
    reply, `end_id`; that of ChatML is not what Qwen2.5's base names its end of sequence."""

    form: Form
    tokenizer: Tokenizer
    end_id: int
    template: ChatTemplate | None = None  # of a chat

    def prompt(self, asked: str | Sequence[Message]) -> str:
        """The text that the model reads: of a question, or of messages, whose earlier turns are
        rendered by the template as published (DeepSeek's drops their thoughts).

        Raises InputError for messages without a template (one of the user's will do for r1_zero),
        and for a question that holds the template's own tokens, since it is a prompt already.
        """
        if not isinstance(asked, str):
            return self._of_messages(asked)
        if self.form == "plain":
            return asked
        if self.form == "r1_zero":
            return templates.r1_zero(asked)
        if self.template is None:
            return asked if opens_thinking(asked) else templates.opened(asked)
        own = next((name for name in self._marks if name in asked), None)
        check(
            own is None,
            f"holds {own}, which the chat template writes itself: give messages, or pass "
            "--conversation=plain if this is the whole prompt",
        )
        return self.template.render([{"role": "user", "content": asked}])

    def _of_messages(self, messages: Sequence[Message]) -> str:
        messages = read_messages(messages)
        if self.template is not None:
            return self.template.render(messages)
        one = len(messages) == 1 and messages[0]["role"] == "user"
        check(
            one and self.form == "r1_zero",
            f"messages need a chat template: the conversation of this model is {self.form}",
        )
        return self.prompt(messages[0]["content"])

    @functools.cached_property
    def _marks(self) -> list[str]:
        """The special tokens that stand in every prompt."""
        return [] if self.template is None else _TOKEN.findall(self.template.render(_user(_PROBE)))

    def prompt_ids(self, asked: str | Sequence[Message]) -> list[int]:
        """Token ids, after the beginning-of-sequence token where the tokenizer has one."""
        return self.tokenizer.encode_prompt(self.prompt(asked))

    def opening(self, prompt: str) -> str:
        """How every reply to this prompt begins, because the prompt ends with it: `<think>` and
        the white space behind it, or nothing."""
        if not opens_thinking(prompt):
            return ""
        end = prompt[prompt.rindex(OPEN) :]
        return f"{end} " if self.form == "embedded" else end  # its words are joined by blanks

    def reply(self, prompt: str, ids: Sequence[int]) -> str:
        """The whole reply as text, its opening too, without the token that ends it."""
        drawn = [int(t) for t in ids if t not in self.tokenizer.end_ids]
        return self.opening(prompt) + self.tokenizer.decode(drawn)

    def completion(self, prompt: str, answer: str, thought: str | None = None) -> str:
        """What is trained on behind the prompt, of a reply that may hold its thought itself
        (`<think>...</think>` at its start) or come with it (the `reasoning_content` of servers).

        Prompt and completion hold the `<think>` once, whichever of the two has it. A reply
        without a thought, behind a prompt that opens one, begins by closing it: the answer is not
        to be learnt as a thought. (As Qwen3 does; R1 has no rule for it.) A reply that only closes
        its thought, as models write behind a prompt that opens it, gets the tag where the prompt
        has none. A plain conversation has no thoughts: the text stays as it is. Raises InputError
        for a thought that is given twice, or that no plain text can hold.
        """
        if thought and thought.strip():
            check(self.form != "plain", "a thought apart from its reply needs a chat template")
            twice = CLOSE in answer or CLOSE in thought
            check(not twice, f"the reply's thought is given apart, and it holds {CLOSE} too")
            inside = thought.removeprefix(OPEN).strip("\n")
            answer = f"{OPEN}\n{inside}\n{CLOSE}\n\n" + answer.lstrip("\n")
        if self.form == "plain":
            return answer
        begun, closes = answer.lstrip(), CLOSE in answer
        if not opens_thinking(prompt):
            if closes and OPEN not in answer.partition(CLOSE)[0]:
                answer = f"{OPEN}\n" + begun
            # The paper's prompt ends in a colon, behind which a blank comes.
            return f" {answer.lstrip()}" if self.form == "r1_zero" else answer
        after = prompt.rpartition(OPEN)[2]  # the embedded one's blank is the reply's
        if begun.startswith(OPEN):
            return begun.removeprefix(OPEN).removeprefix(after)
        if closes:
            return answer.removeprefix(after)
        return ("\n" if after.endswith("\n") else "\n\n") + f"{CLOSE}\n\n" + begun

    def document(
        self, prompt: str, answer: str, thought: str | None = None
    ) -> tuple[list[int], list[int]]:
        """(tokens of the prompt, tokens trained on: the completion and the token that ends it)."""
        return document(
            self.tokenizer,
            prompt,
            self.completion(prompt, answer, thought),
            self.end_id,
            exact=self.form == "chat",
        )


def document(
    tokenizer: Tokenizer, prompt: str, completion: str, end: int | None = None, exact: bool = False
) -> tuple[list[int], list[int]]:
    """Encoded as one text, so that the tokens between the two are those that a model would draw.

    Where a token would hold the end of the prompt and the beginning of the completion it is
    trained on; but with `exact` the prompt keeps its own tokens, as a chat's does when a reply is
    drawn, if the text allows.
    """
    before = tokenizer.encode_prompt(prompt)
    whole = tokenizer.encode_prompt(prompt + completion)
    if exact and whole[: len(before)] != before:
        apart = [*before, *tokenizer.encode(completion)]
        if tokenizer.decode(apart) == tokenizer.decode(whole):
            whole = apart
    whole = [*whole, tokenizer.eos_id if end is None else end]
    same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), None)
    cut = len(before) if same is None else same
    return whole[:cut], whole[cut:]


def check_form(replies: str, form: Form, own: Form) -> None:
    """Raises InputError where `replies` have another form than the model that is to learn them is
    asked by: it would learn another's tags. Thoughts go from any chat to any."""
    check(
        form == own,
        f"{replies}: of the conversation {form} ({LOOKS[form]}), and the model that "
        f"is to learn it is asked by {own} ({LOOKS[own]}): ask it by {form}, or give other replies",
    )


def make_conversation(
    tokenizer: Tokenizer,
    files: str | Path,
    wanted: ConversationName = "auto",
    otherwise: Literal["plain", "r1_zero"] = "plain",
) -> Conversation:
    """The conversation of a model whose tokenizer is in `files`; empty: the embedded one.

    auto is chat if there is a chat template, else `otherwise`: r1_zero where problems are asked,
    plain where a text goes on. Raises InputError if what is wanted is not there.
    """
    if not files:
        known = f"--conversation={wanted}: the embedded model knows its own words only"
        check(wanted in ("auto", "plain"), known)
        form: Form = "plain" if wanted == "plain" else "embedded"
        return Conversation(form, tokenizer, tokenizer.eos_id)
    if wanted == "chat" or (wanted == "auto" and ChatTemplate.exists(files)):
        template = ChatTemplate.load(files)
        end = _turn_end(template, tokenizer)
        return Conversation("chat", tokenizer.ending(end), end, template)
    return Conversation(otherwise if wanted == "auto" else wanted, tokenizer, tokenizer.eos_id)


def _turn_end(template: ChatTemplate, tokenizer: Tokenizer) -> int:
    """The token that the template writes behind an assistant's reply, if it is one of the
    tokenizer's added ones; else the end of sequence."""
    turns = [*_user("?"), {"role": "assistant", "content": _PROBE}]
    try:
        text = template.render(turns, add_generation_prompt=False)
    except InputError:  # a template that refuses such turns says so when it is used
        return tokenizer.eos_id
    ids = tokenizer.encode(text.rpartition(_PROBE)[2].lstrip())
    return ids[0] if ids and ids[0] in tokenizer.added_ids else tokenizer.eos_id


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
