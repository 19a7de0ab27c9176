"""Tools in R1-0528's form: how the model is told of them, and calls read out of what it writes.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME
    ```json
    {...}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

As vLLM's template for it does (examples/tool_chat_template_deepseekr1.jinja).
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from r1jax.data.chat import Message, overlap
from r1jax.serve.asks import Tool

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
FENCE, FENCE_END = "\n```json\n", "\n```"

_TOLD = (
    "You are a helpful assistant with tool calling capabilities. When a tool call is needed, you "
    "MUST use the following format to issue the call:\n"
    f'{CALLS}{CALL}function{SEP}FUNCTION_NAME{FENCE}{{"param1": "value1", "param2": "value2"}}'
    f"{FENCE_END}{CALL_END}{CALLS_END}\n\nMake sure the JSON is valid.\n\n## Tools\n\n"
    "### Function\n\nYou have the following functions available:\n"
)


def told(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The messages, in whose system prompt the tools are described."""
    text = _TOLD + "".join(
        f"\n```json\n{json.dumps(tool.whole, ensure_ascii=False)}\n```\n" for tool in tools
    )
    found = list(messages)
    if found and found[0]["role"] == "system":
        found[0] = {**found[0], "content": f"{found[0]['content']}\n\n{text}"}
    else:
        found.insert(0, {"role": "system", "content": text})
    return found


class Delta(NamedTuple):
    """What is new of a call: its name with the first, then pieces of its arguments."""

    number: int
    name: str | None
    arguments: str


class Calls:
    """Reads an answer as it comes in: text before the calls, and the calls. What does not have
    their form is text."""

    def __init__(self) -> None:
        self._place, self._held, self.count = "text", "", 0
        self._written = ""  # since the calls began, where it is no call yet

    def feed(self, text: str) -> tuple[str, list[Delta]]:
        """(what is certainly text, what is new of calls)"""
        self._held += text
        shown, deltas = "", []
        while True:
            before = (self._place, self._held)
            piece, delta = self._one()
            shown += piece
            if delta is not None:
                deltas.append(delta)
            if (self._place, self._held) == before:
                return shown, deltas

    def flush(self) -> tuple[str, list[Delta]]:
        """The rest, at the end of the reply."""
        held, self._held = self._held, ""
        if self._place == "text":
            return held, []
        if self._place == "arguments":
            return "", [Delta(self.count - 1, None, held)] if held else []
        return (self._written + held if self.count == 0 else ""), []

    def _one(self) -> tuple[str, Delta | None]:
        held = self._held
        if self._place == "text":
            head, mark, rest = held.partition(CALLS)
            if mark:
                self._place, self._held, self._written = "between", rest, CALLS
                return head, None
            cut = len(held) - overlap(held, CALLS)
            self._held = held[cut:]
            return held[:cut], None
        if self._place == "between":
            _, mark, rest = held.partition(CALL)
            if mark:
                self._place, self._held = "name", rest
                self._written += CALL
            return "", None
        if self._place == "name":
            head, mark, rest = held.partition(FENCE)
            if not mark:
                return "", None
            self._place, self._held, self._written = "arguments", rest, ""
            self.count += 1
            return "", Delta(self.count - 1, head.rpartition(SEP)[2].strip(), "")
        head, mark, rest = held.partition(FENCE_END)
        if mark:
            self._place, self._held = "between", rest
            return "", Delta(self.count - 1, None, head) if head else None
        cut = len(held) - overlap(held, FENCE_END)
        self._held = held[cut:]
        return "", Delta(self.count - 1, None, held[:cut]) if cut else None


def as_openai(index: int, delta: Delta, id: str) -> dict[str, Any]:
    """Of a stream's chunk."""
    if delta.name is None:
        return {"index": index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": ""}
    return {"index": index, "id": id, "type": "function", "function": function}
