"""Replies of any server that speaks OpenAI's protocol, so that all engines have the same graders.

    POST URL/chat/completions   the question as a message; the server knows its model's template
    POST URL/completions        a prompt that is made here, for base models

A thought comes as `reasoning_content` (DeepSeek, vLLM, SGLang) or `reasoning` beside the content,
or inside of it, with or without its `<think>`, which a template may have forced. Requests run side
by side; one that fails for a reason that may pass (429, 5xx, no connection, a time-out) is tried
again, later each time. What is refused for good ends the run; all replies that came are kept.
"""

import http.client
import json
import math
import queue
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Literal

from r1jax.checks import InputError, check
from r1jax.data import templates
from r1jax.data.chat import CLOSE, OPEN, split_thinking
from r1jax.data.conversation import Form
from r1jax.evaluation.local import Ask, OnReply
from r1jax.evaluation.protocol import BEGUN, Protocol, messages
from r1jax.evaluation.replies import Reply

Api = Literal["chat", "completions"]
LONGEST_PAUSE = 60.0  # seconds between two tries


class Remote:
    """url: with its version, as http://127.0.0.1:8000/v1. model: as the server calls it; empty:
    the first that it names. key: sent as a bearer token. concurrency: requests side by side.
    retries: of a request. timeout_s: of one try, for the whole reply.

    Raises InputError if the server cannot be reached.
    """

    def __init__(
        self,
        url: str,
        protocol: Protocol,
        model: str = "",
        api: Api = "chat",
        conversation: Form = "r1_zero",
        key: str = "",
        concurrency: int = 16,
        retries: int = 6,
        timeout_s: float = 3600.0,
        pause_s: float = 1.0,
    ):
        check(concurrency > 0, f"--concurrency must be positive, got {concurrency}")
        check(retries >= 0, f"--retries must not be negative, got {retries}")
        check(timeout_s > 0, f"--timeout must be positive, got {timeout_s}")
        plain = api == "completions" and bool(protocol.system)
        check(not plain, "--system: --api=completions has no messages, so no system prompt")
        self.url, self.protocol, self.api = url.rstrip("/"), protocol, api
        self.form: Form = "chat" if api == "chat" else conversation
        self._key, self._concurrency, self._retries = key, concurrency, retries
        self._timeout_s, self._pause_s = timeout_s, pause_s
        self.model, self.context = self._served(model)
        self.name = f"{self.url} {self.model}"

    def _served(self, name: str) -> tuple[str, float]:
        """(the model of that name, or the first; the tokens of its context, as far as is said)."""
        try:
            found = self._call("/models", None)
        except Refusal as error:
            if not name:
                hint = "" if self.url.endswith("/v1") else "; --model is mostly an address's .../v1"
                raise Refusal(f"{error}{hint}") from None
            found = None  # a server need not tell
        data = found.get("data") if isinstance(found, dict) else None
        some = [one for one in data or () if isinstance(one, dict)] if data else []
        first = next((one for one in some if not name or one.get("id") == name), {})
        name = name or first.get("id", "")
        if not isinstance(name, str) or not name:
            raise InputError(f"{self.url}/models names no model: pass --served-model=NAME")
        context = first.get("max_model_len")
        return name, context if isinstance(context, int) and context > 0 else math.inf

    def prompt(self, text: str) -> str:
        """Of a chat, the question: its prompt is the server's to make."""
        if self.form == "plain" or self.api == "chat":
            return text
        asked = templates.r1_zero(text)
        return f"{asked} {BEGUN}" if self.protocol.think else asked

    def refused(self, text: str) -> str:
        return ""

    def draw(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for i in range(len(asks)):
            todo.put(i)
        found: queue.SimpleQueue[tuple[int, Reply | InputError]] = queue.SimpleQueue()
        stopped = threading.Event()

        def work() -> None:
            while not stopped.is_set():
                try:
                    i = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    found.put((i, self._reply(asks[i], stopped)))
                except InputError as error:
                    found.put((i, error))
                    return
                except Exception as error:  # told where the others wait, and raised there
                    found.put((i, InputError(f"{self.url}: {type(error).__name__}: {error}")))
                    return

        some = min(self._concurrency, len(asks))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(some)]
        for thread in threads:
            thread.start()
        try:
            for count in range(len(asks)):
                i, reply = found.get()
                if isinstance(reply, InputError):
                    kept = f"{count:,} replies of this run are kept" if count else ""
                    way = "" if isinstance(reply, Refusal) else "the same command goes on"
                    raise InputError("; ".join(filter(None, (str(reply), kept, way))))
                on_reply(i, reply)
        finally:
            stopped.set()

    def _reply(self, ask: Ask, stopped: threading.Event) -> Reply:
        p, seed = self.protocol, _seed(self.protocol.seed, ask)
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": p.temperature,
            "top_p": p.top_p,
            "seed": seed,
        }
        if not (self.api == "chat" and self.context <= p.max_tokens):
            body["max_tokens"] = p.max_tokens  # else a reply ends where the context does
        if p.top_k:
            body["top_k"] = p.top_k
        if self.api == "chat":
            body["messages"] = messages(ask.text, p)
            found = self._call("/chat/completions", body, stopped)
        else:
            body["prompt"] = self.prompt(ask.text)
            found = self._call("/completions", body, stopped)
        try:
            return self._read(found, ask)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            said = json.dumps(found)[:200]
            raise InputError(f"{self.url}: not a completion ({error!r}): {said}") from None

    def _read(self, found: Any, ask: Ask) -> Reply:
        choice = found["choices"][0]
        if self.api == "chat":
            message = choice["message"]
            content = message.get("content") or ""
            thought = message.get("reasoning_content") or message.get("reasoning") or ""
            text = with_thought(content, thought, choice.get("finish_reason") == "length")
        else:
            begun = BEGUN if self.prompt(ask.text).endswith(BEGUN) else ""
            text = begun + choice["text"]
        usage = found.get("usage") or {}
        tokens = usage.get("completion_tokens") or 0
        details = usage.get("completion_tokens_details") or {}
        thinking = details.get("reasoning_tokens")
        if thinking is None:
            thinking = round(tokens * len(split_thinking(text).thinking) / max(len(text), 1))
        finish = "length" if choice.get("finish_reason") == "length" else "stop"
        return Reply(text, int(tokens), int(thinking), finish)

    def _call(
        self, path: str, body: dict[str, Any] | None, stopped: threading.Event | None = None
    ) -> Any:
        """The JSON that the server answers. Raises InputError where it does not, or refuses."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        last = ""
        for attempt in range(self._retries + 1):
            if attempt:
                pause = min(self._pause_s * 2 ** (attempt - 1), LONGEST_PAUSE)
                time.sleep(pause * random.uniform(0.5, 1.0))  # so that not all come back at once
            if stopped is not None and stopped.is_set():
                break
            try:
                request = urllib.request.Request(self.url + path, data, headers)
                with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                last = f"{error.code} {error.reason}: {_told(error)}"
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    raise Refusal(f"{self.url}{path} refuses: {last}") from None
            except (OSError, http.client.HTTPException) as error:  # also URLError, and time-outs
                last = str(getattr(error, "reason", error)) or type(error).__name__
            except ValueError as error:
                last = f"not JSON: {error}"
        tried = "once" if not self._retries else f"{self._retries + 1:,} times"
        raise InputError(f"{self.url}{path}: {last}, tried {tried}")


class Refusal(InputError):
    """What is asked again is refused again."""


def with_thought(content: str, thought: str, cut: bool) -> str:
    """A chat's reply as one text, its `<think>` at the start where there is a thought."""
    if thought:
        inside = thought.strip("\n")
        end = "" if cut and not content else f"\n{CLOSE}\n\n"
        return f"{OPEN}\n{inside}{end}{content}"
    opened = content.lstrip().startswith(OPEN)
    return content if opened or CLOSE not in content else BEGUN + content.lstrip()


def _seed(seed: int, ask: Ask) -> int:
    """One a reply, the same whenever it is asked."""
    return hash((seed, ask.question, ask.sample)) & 0x7FFFFFFF


def _told(error: urllib.error.HTTPError) -> str:
    try:
        return " ".join(error.read(500).decode("utf-8", "replace").split())
    except OSError:
        return ""
