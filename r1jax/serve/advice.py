"""How DeepSeek says its two R1s are to be asked, as changes to a conversation.

r1       January 2025 (the model card's usage recommendations): no system prompt, all
         instructions in the user's turn, and the reply is made to begin with <think>
r1_0528  May 2025: a system prompt with the date, where the request has none of its own, and no
         need to force the thought
"""

import datetime
from collections.abc import Sequence
from typing import Literal

from r1jax.data.chat import Message

Advice = Literal["none", "r1", "r1_0528"]
_DAYS = "一二三四五六日"


def advised(messages: Sequence[Message], advice: Advice, today: datetime.date) -> list[Message]:
    """The messages as `advice` has them."""
    found = list(messages)
    if advice == "r1_0528" and not any(m["role"] == "system" for m in found):
        return [{"role": "system", "content": system_0528(today)}, *found]
    if advice == "r1":
        told = [m["content"] for m in found if m["role"] == "system"]
        found = [m for m in found if m["role"] != "system"]
        first = next((i for i, m in enumerate(found) if m["role"] == "user"), None)
        if told and first is not None:
            text = "\n\n".join([*told, found[first]["content"]])
            found[first] = {**found[first], "content": text}
    return found


def system_0528(today: datetime.date) -> str:
    """The prompt of DeepSeek's own site and app, as the model card of R1-0528 prints it."""
    date = f"{today.year}年{today.month}月{today.day}日，星期{_DAYS[today.weekday()]}"
    return f"该助手为DeepSeek-R1，由深度求索公司创造。\n今天是{date}。"
