"""What fine-tuning reads: rows of conversations, as the model's tokens."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from r1jax.checks import InputError, check
from r1jax.config import Long, SFTConfig
from r1jax.data.chat import CLOSE, OPEN, Message, opens_thinking, read_messages
from r1jax.data.conversation import LOOKS, Conversation, check_form
from r1jax.data.packing import Document
from r1jax.data.rows import Place, field, read_rows, warn

FORMS = (
    '"prompt" and "completion"; "messages"; "conversations" of "from" and "value"; '
    '"instruction" and "output"; or "problem", "deepseek_reasoning" and "deepseek_solution"'
)
# OpenThoughts-114k's marks, which its system prompts ask for.
_MARKED = re.compile(
    r"\s*<\|begin_of_thought\|>(?P<thought>.*?)<\|end_of_thought\|>\s*"
    r"<\|begin_of_solution\|>(?P<answer>.*?)<\|end_of_solution\|>\s*",
    re.DOTALL,
)
_SHAREGPT = {"system": "system", "human": "user", "user": "user", "gpt": "assistant",
             "assistant": "assistant"}  # fmt: skip


def read_documents(
    cfg: SFTConfig, conversation: Conversation, say: Callable[[str], None] = warn
) -> list[Document]:
    """(prompt, completion and end) tokens of each row of cfg.data that is read and fits a row.

    {"prompt", "completion"}: a question, or in a plain conversation a text and how it goes on.
    {"messages"}: the last is the assistant's, which is trained on; its thought is in its content,
    or in "reasoning_content" (or "reasoning"). Also read: {"conversations": [{"from", "value"}]}
    and {"instruction", "input", "output"}; so the published forms of OpenR1-Math-220k (its
    "messages", a trace that was found right) and OpenThoughts-114k (its "conversations", or those
    of its metadata: "problem", "deepseek_reasoning", "deepseek_solution"). Raises InputError as
    `read_rows` does, for a reply that is empty, a thought without an end, and one of another "form"
    (as rejection sampling's rows say) than the model is asked by, and for documents that are too
    long unless cfg drops them; says how many replies have no thought where the prompt opens one.
    """
    without_thought: list[Place] = []
    places: list[Place] = []

    def parse(row: dict[str, Any], place: Place) -> Document:
        asked, answer, thought = read_row(row)
        if row.get("form") in list(LOOKS):
            check_form("the reply", row["form"], conversation.form)
        check(bool(answer.strip() or thought), "the reply is empty")
        cut = answer.lstrip().startswith(OPEN) and CLOSE not in answer
        check(not cut, f"the reply begins with {OPEN}, and no {CLOSE} ends the thought")
        prompt = conversation.prompt(asked)
        found = conversation.document(prompt, answer, thought)
        unthought = not thought and OPEN not in answer and CLOSE not in answer
        if opens_thinking(prompt) and unthought:
            without_thought.append(place)
        places.append(place)
        return found

    documents = read_rows(cfg.data, parse, cfg.bad_rows, say)
    if without_thought:
        say(
            f"{cfg.data}: {len(without_thought):,} of {len(documents):,} replies have no thought, "
            f"the first at line {without_thought[0].number}: the thought that the prompt opens is "
            "closed at once"
        )
    return _that_fit(documents, places, cfg.length, cfg.long_documents, say)


def read_row(row: dict[str, Any]) -> tuple[str | Sequence[Message], str, str | None]:
    """(what is asked, the reply, its thought if that is given apart). Raises InputError."""
    if "conversations" in row:
        row = {"messages": [_of_sharegpt(m) for m in field(row, "conversations", list)]}
    if "instruction" in row and "output" in row:
        parts = [field(row, name, str) for name in ("instruction", "input") if row.get(name)]
        row = {"messages": [{"role": "user", "content": "\n\n".join(parts)},
                            {"role": "assistant", "content": row["output"]}]}  # fmt: skip
    if "deepseek_reasoning" in row:
        names = ("problem", "deepseek_solution", "deepseek_reasoning")
        problem, answer, reasoning = (field(row, name, str) for name in names)
        return [{"role": "user", "content": problem}], answer, reasoning
    if "messages" in row:
        *asked, last = read_messages(row["messages"])
        check(last["role"] == "assistant", "the last message must be the assistant's")
        check(bool(asked), "a message of the assistant's alone: nothing is asked")
        check(not last.get("tool_calls"), "a reply that calls tools cannot be trained on")
        marked = _MARKED.fullmatch(field(dict(last), "content", str))
        if marked:  # in the student's own form, for which the system prompt is another's
            asked = [message for message in asked if message["role"] != "system"]
            return asked, marked["answer"].strip("\n"), marked["thought"].strip("\n")
        given = [name for name in ("reasoning_content", "reasoning") if last.get(name)]
        thought = field(dict(last), given[0], str) if given else None
        return asked, field(dict(last), "content", str), thought
    if "prompt" not in row:
        raise InputError(f'missing field "prompt"; a row has {FORMS}; this one has {sorted(row)}')
    if isinstance(row["prompt"], list) and isinstance(row.get("completion"), list):
        return read_row({"messages": [*row["prompt"], *row["completion"]]})
    return field(row, "prompt", str), field(row, "completion", str), None


def _of_sharegpt(turn: Any) -> Message:
    check(isinstance(turn, dict), 'field "conversations" must be a list of objects')
    speaker = field(turn, "from", str)
    known = ", ".join(_SHAREGPT)
    check(speaker in _SHAREGPT, f'field "from" must be one of {known}, got {speaker!r}')
    return {"role": _SHAREGPT[speaker], "content": field(turn, "value", str)}


def _that_fit(
    documents: list[Document],
    places: Sequence[Place],
    limit: int,
    policy: Long,
    say: Callable[[str], None],
) -> list[Document]:
    lengths = [len(prompt) + len(reply) for prompt, reply in documents]
    long = [i for i, n in enumerate(lengths) if n > limit]
    if not long:
        return documents
    worst = max(long, key=lengths.__getitem__)
    said = (
        f"{len(long):,} of {len(documents):,} documents are longer than a row of {limit:,} tokens; "
        f"the longest, {places[worst]}, has {lengths[worst]:,}"
    )
    advice = f"--length={lengths[worst]} takes all, --long-documents=drop leaves them out"
    check(policy == "drop", f"{said}: {advice}")
    check(len(long) < len(documents), f"{said}: none is left")
    say(f"{said}: left out")
    return [documents[i] for i, n in enumerate(lengths) if n <= limit]
