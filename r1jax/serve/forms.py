"""What a client reads: OpenAI's objects and the chunks of a stream."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from r1jax.data.tokenizer import Tokenizer
from r1jax.sampling.requests import Tops
from r1jax.serve.replies import Piece, Usage, entry
from r1jax.serve.tools import as_openai

DONE = b"data: [DONE]\n\n"
ALIVE = b": keep-alive\n\n"


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(value: Any) -> bytes:
    """Of a stream of server-sent events."""
    return b"data: " + dumps(value) + b"\n\n"


def usage(u: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": u.prompt,
        "completion_tokens": u.completion,
        "total_tokens": u.prompt + u.completion,
        "completion_tokens_details": {"reasoning_tokens": u.reasoning},
        "prompt_tokens_details": {"cached_tokens": u.cached},
        "prompt_cache_hit_tokens": u.cached,
        "prompt_cache_miss_tokens": u.prompt - u.cached,
    }


def _head(prefix: str, kind: str, model: str, fingerprint: str) -> dict[str, Any]:
    """What a whole reply and each of its chunks begin with."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
    }


class ChatForm:
    """reasoning: the fields that a thought is told in."""

    def __init__(self, model: str, fingerprint: str, n: int, reasoning: Sequence[str], tops: bool):
        self._head = _head("chatcmpl", "chat.completion", model, fingerprint)
        self._reasoning, self._tops = reasoning, tops
        self._call_ids: dict[tuple[int, int], str] = {}
        self._messages: list[dict[str, Any]] = [{"calls": []} for _ in range(n)]
        self._parts: list[tuple[list[str], list[str]]] = [([], []) for _ in range(n)]
        self._told: list[tuple[list, list]] = [([], []) for _ in range(n)]
        self._finish = [""] * n

    def _id(self, index: int, call: int) -> str:
        return self._call_ids.setdefault((index, call), f"call_{secrets.token_hex(12)}")

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        head = {**self._head, "object": "chat.completion.chunk"}
        return event({**head, "choices": choices, **more})

    def begin(self, n: int, **more: Any) -> bytes:
        delta = {"role": "assistant", "content": ""}
        chunks = [self.chunk([self._choice(i, delta)], **more) for i in range(n)]
        return b"".join(chunks)

    def _choice(self, index: int, delta: Any, logprobs: Any = None, finish: str | None = None):
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def pieces(self, piece: Piece, **more: Any) -> bytes:
        """The chunks of what is new."""
        found: list[bytes] = []
        i = piece.index

        def add(delta: Any, logprobs: Any = None, finish: str | None = None) -> None:
            found.append(self.chunk([self._choice(i, delta, logprobs, finish)], **more))

        if piece.thinking or piece.thought_tops:
            delta = dict.fromkeys(self._reasoning, piece.thinking)
            add(delta, self._logprobs(piece.thought_tops, ()))
        if piece.text or piece.tops:
            add({"content": piece.text}, self._logprobs((), piece.tops))
        for call in piece.calls:
            add({"tool_calls": [as_openai(call.number, call, self._id(i, call.number))]})
        if piece.finish:
            add({}, None, piece.finish)
        return b"".join(found)

    def _logprobs(self, thought: Sequence[Any], answer: Sequence[Any]) -> Any:
        if not self._tops:
            return None
        found = {"content": list(answer), "refusal": None}
        return {**found, "reasoning_content": list(thought)} if thought else found

    def add(self, piece: Piece) -> None:
        """Of a reply that is told as a whole."""
        i = piece.index
        self._parts[i][0].append(piece.thinking)
        self._parts[i][1].append(piece.text)
        self._told[i][0].extend(piece.thought_tops)
        self._told[i][1].extend(piece.tops)
        calls = self._messages[i]["calls"]
        for delta in piece.calls:
            if delta.name is not None:
                calls.append([delta.name, ""])
            calls[delta.number][1] += delta.arguments
        self._finish[i] = piece.finish or self._finish[i]

    def whole(self, u: Usage, switches: Sequence[int]) -> dict[str, Any]:
        choices = []
        for i, (thinking, text) in enumerate(self._parts):
            content = "".join(text)
            message: dict[str, Any] = {"role": "assistant", "content": content or None}
            message |= dict.fromkeys(self._reasoning, "".join(thinking) or None)
            message["refusal"] = None
            if calls := self._messages[i]["calls"]:
                message["tool_calls"] = [
                    {
                        "id": self._id(i, k),
                        "type": "function",
                        "function": {"name": name, "arguments": arguments},
                    }
                    for k, (name, arguments) in enumerate(calls)
                ]
            choices.append(
                {
                    "index": i,
                    "message": message,
                    "logprobs": self._logprobs(*self._told[i]) if self._tops else None,
                    "finish_reason": self._finish[i],
                    "script_switches": switches[i],
                }
            )
        return {**self._head, "choices": choices, "usage": usage(u)}


class TextForm:
    """told: the logprobs of echoed prompts, by choice."""

    def __init__(self, model: str, fingerprint: str, tops: bool, tokenizer: Tokenizer):
        self._head = _head("cmpl", "text_completion", model, fingerprint)
        self._tops, self._tokenizer = tops, tokenizer
        self._offsets: dict[int, int] = {}

    def echo(self, ids: Sequence[int], tops: Tops | None, count: int) -> list[dict[str, Any]]:
        """A prompt's tokens; the first has no probability. Joined they are its text, whose first
        word has no blank before it, and no special token."""
        if tops is None:
            return []
        found: list[dict[str, Any]] = [{"token": "", "logprob": None, "top_logprobs": None}]
        found += [entry(self._tokenizer, token, tops, i, count) for i, token in enumerate(ids[1:])]
        for token, one in zip(ids, found, strict=True):
            one["token"] = self._tokenizer.decode([token], skip_special_tokens=True)
            if one["token"]:
                break
        return found

    def logprobs(self, index: int, entries: Sequence[dict[str, Any]]) -> Any:
        if not self._tops:
            return None
        offsets = []
        at = self._offsets.get(index, 0)
        for e in entries:
            offsets.append(at)
            at += len(e["token"])
        self._offsets[index] = at
        return {
            "tokens": [e["token"] for e in entries],
            "token_logprobs": [e["logprob"] for e in entries],
            "top_logprobs": [
                None
                if e["top_logprobs"] is None
                else {t["token"]: t["logprob"] for t in reversed(e["top_logprobs"])}
                | ({} if e["top_logprobs"] else {e["token"]: e["logprob"]})
                for e in entries
            ],
            "text_offset": offsets,
        }

    def choice(self, index: int, text: str, entries: Sequence[Any], finish: str | None) -> Any:
        return {
            "index": index,
            "text": text,
            "logprobs": self.logprobs(index, entries),
            "finish_reason": finish,
        }

    def chunk(self, choices: list[Any], **more: Any) -> bytes:
        return event({**self._head, "choices": choices, **more})

    def whole(self, choices: list[Any], u: Usage) -> dict[str, Any]:
        return {**self._head, "choices": choices, "usage": usage(u)}
