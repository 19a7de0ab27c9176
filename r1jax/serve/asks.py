"""What a request for a reply says, checked: `Drawing` of every kind, `Chat` and `Text` of their
own."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.checks import InputError
from r1jax.data.chat import Message, read_messages
from r1jax.sampling.requests import MOST_BIASES, MOST_TOPS
from r1jax.serve.errors import bad
from r1jax.serve.fields import Fields, kind

MOST_STOPS, LONGEST_STOP = 16, 256  # strings, characters
MOST_CHOICES = 64
MOST_TOOLS = 128
MOST_PROMPTS = 256  # of one request for a text
# How much of max_tokens a thought gets, as OpenRouter maps the words.
EFFORTS = {"none": 0.0, "minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """None: as the server says. max_tokens: of a reply, its thought included. budget: tokens of
    the thought; effort: the same as a share of max_tokens. tops: how many of the likeliest tokens
    are told; None: no log-probabilities."""

    n: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    bias: Mapping[int, float]
    tops: int | None
    stream: bool
    stream_usage: bool
    budget: int | None = None
    effort: float | None = None
    language: str | None = None


@dataclasses.dataclass(frozen=True)
class Tool:
    name: str
    schema: Any  # of its arguments
    whole: Any  # as it was given


@dataclasses.dataclass(frozen=True)
class Chat:
    """schema: of the answer, where it is to be JSON. calls: "none", "auto", "required" or the name
    of a tool."""

    model: str | None
    messages: Sequence[Message]
    drawing: Drawing
    schema: Any = None
    tools: tuple[Tool, ...] = ()
    calls: str = "none"
    parallel: bool = True


@dataclasses.dataclass(frozen=True)
class Text:
    """prompts: each a text, or token ids."""

    model: str | None
    prompts: Sequence[str | list[int]]
    drawing: Drawing
    echo: bool


def drawing(f: Fields, tops: int | None) -> Drawing:
    wanted = {name: f.integer(name, 1) for name in ("max_tokens", "max_completion_tokens")}
    both = {value for value in wanted.values() if value is not None}
    if len(both) > 1:
        raise bad("max_completion_tokens", "max_tokens and max_completion_tokens differ: give one")
    options = f.object("stream_options")
    for name in ("presence_penalty", "frequency_penalty"):
        if f.number(name, -2, 2):
            raise bad(name, f"{name} is not supported: leave it out or give 0")
    return Drawing(
        n=f.integer("n", 1, MOST_CHOICES) or 1,
        temperature=f.number("temperature", 0, 2),
        top_p=_top_p(f),
        top_k=f.integer("top_k", -1),
        max_tokens=both.pop() if both else None,
        seed=_seed(f),
        stop=_stop(f),
        bias=_bias(f),
        tops=tops,
        stream=f.boolean("stream"),
        stream_usage=options is not None and options.boolean("include_usage"),
        budget=_budget(f),
        effort=EFFORTS.get(f.one_of("reasoning_effort", tuple(EFFORTS)) or ""),
        language=f.text("language"),
    )


def _top_p(f: Fields) -> float | None:
    value = f.number("top_p", 0, 1)
    if value == 0:
        raise bad("top_p", "top_p must be more than 0")
    return value


def _seed(f: Fields) -> int | None:
    """Any 64-bit integer, as clients give them; the engine's have 32 bits."""
    value = f.integer("seed", -(2**63), 2**64 - 1)
    return None if value is None else value % 2**32


def _stop(f: Fields) -> tuple[str, ...]:
    value = f.any("stop")
    if value is None:
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(s, str) for s in given):
        raise bad("stop", "stop must be a string or an array of strings")
    given = [s for s in given if s]
    if len(given) > MOST_STOPS or any(len(s) > LONGEST_STOP for s in given):
        raise bad("stop", f"stop takes {MOST_STOPS} strings of {LONGEST_STOP} characters at most")
    return tuple(given)


def _bias(f: Fields) -> dict[int, float]:
    options = f.object("logit_bias")
    if options is None:
        return {}
    values = f.any("logit_bias")
    found: dict[int, float] = {}
    for name in values:
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise bad("logit_bias", f"logit_bias: {name!r:.40} is no token id")
        found[int(name)] = options.number(name, -100, 100) or 0.0
    if len(found) > MOST_BIASES:
        raise bad("logit_bias", f"logit_bias has {len(found)} tokens, at most {MOST_BIASES}")
    return found


def _budget(f: Fields) -> int | None:
    """`thinking_budget`, or `thinking` as {"type": "enabled" | "disabled", "budget_tokens"}."""
    budget = f.integer("thinking_budget", 0)
    options = f.object("thinking")
    if options is None:
        return budget
    if options.one_of("type", ("enabled", "disabled", "auto")) == "disabled":
        return 0
    inner = options.integer("budget_tokens", 0)
    return budget if inner is None else inner


def chat(values: dict[str, Any]) -> Chat:
    f = Fields(values)
    model = f.text("model")
    messages = f.array("messages")
    if messages is None:
        raise bad("messages", "messages is missing")
    for i, message in enumerate(messages):
        _check_calls(message, f"messages[{i}]")
    try:
        messages = read_messages(messages)
    except InputError as error:
        raise bad("messages", str(error)) from None
    tops = f.integer("top_logprobs", 0, MOST_TOPS)
    if f.boolean("logprobs"):
        tops = tops or 0
    elif tops:
        raise bad("top_logprobs", "top_logprobs needs logprobs: true")
    else:
        tops = None
    tools = _tools(f)
    return Chat(
        model,
        messages,
        drawing(f, tops),
        _schema(f),
        tools,
        _calls(f, tools),
        f.any("parallel_tool_calls") is None or f.boolean("parallel_tool_calls"),
    )


def _check_calls(message: Any, where: str) -> None:
    """What templates read of earlier tool calls is there, and text."""
    if not isinstance(message, dict):
        return  # read_messages says so
    f = Fields(message, where)
    for name in ("reasoning_content", "reasoning", "tool_call_id", "name"):
        f.text(name)
    for i, call in enumerate(f.array("tool_calls") or []):
        place = f"{where}.tool_calls[{i}]"
        if not isinstance(call, dict):
            raise bad(place, f"{place} must be an object, got {kind(call)}")
        function = Fields(call, place).object("function")
        if function is None:
            raise bad(f"{place}.function", f"{place}.function is missing")
        for name in ("name", "arguments"):
            if function.text(name) is None:
                raise bad(function.name(name), f"{function.name(name)} is missing")


def _schema(f: Fields) -> Any:
    form = f.object("response_format")
    if form is None:
        return None
    which = form.one_of("type", ("text", "json_object", "json_schema"))
    if which is None:
        raise bad("response_format.type", "response_format.type is missing")
    if which == "text":
        return None
    if which == "json_object":
        return {"type": "object"}
    inside = form.object("json_schema")
    schema = inside.any("schema") if inside else None
    if not isinstance(schema, dict):
        name = "response_format.json_schema.schema"
        raise bad(name, f"{name} must be an object, got {kind(schema)}")
    return schema


def _tools(f: Fields) -> tuple[Tool, ...]:
    found: list[Tool] = []
    for i, tool in enumerate(f.array("tools") or []):
        place = f"tools[{i}]"
        if not isinstance(tool, dict):
            raise bad(place, f"{place} must be an object, got {kind(tool)}")
        one = Fields(tool, place)
        one.one_of("type", ("function",))
        function = one.object("function")
        name = function.text("name") if function else None
        if not name or function is None:
            raise bad(f"{place}.function.name", f"{place}.function.name is missing")
        if not (len(name) <= 64 and name.replace("_", "a").replace("-", "a").isalnum()):
            said = "must be letters, digits, _ and -, 64 at most"
            raise bad(f"{place}.function.name", f"{place}.function.name {said}")
        function.object("parameters")
        schema = function.any("parameters") or {"type": "object"}
        found.append(Tool(name, schema, tool))
    if len(found) > MOST_TOOLS:
        raise bad("tools", f"tools has {len(found)}, at most {MOST_TOOLS}")
    return tuple(found)


def _calls(f: Fields, tools: Sequence[Tool]) -> str:
    value, names = f.any("tool_choice"), [tool.name for tool in tools]
    if value is None:
        return "auto" if tools else "none"
    if isinstance(value, dict):
        choice = f.object("tool_choice")
        function = choice.object("function") if choice else None
        name = function.text("name") if function else None
        if name not in names:
            known = ", ".join(names) or "there are none"
            raise bad("tool_choice", f"tool_choice names {name!r:.80}, no tool of these: {known}")
        return f"={name}"
    word = f.one_of("tool_choice", ("none", "auto", "required"))
    if word != "none" and not tools:
        raise bad("tool_choice", f"tool_choice is {word}, but there are no tools")
    return word or "none"


def text(values: dict[str, Any]) -> Text:
    f = Fields(values)
    model, prompt = f.text("model"), f.any("prompt")
    prompts = _prompts(prompt)
    if f.text("suffix"):
        raise bad("suffix", "suffix is not supported")
    tops = f.integer("logprobs", 0, MOST_TOPS) if f.any("logprobs") is not True else 0
    echo = f.boolean("echo")
    wanted = drawing(Fields({**values, "max_tokens": _at_least_one(f)}), tops)
    best = f.integer("best_of", 1)
    if best is not None and best != wanted.n:
        raise bad("best_of", "best_of is not supported: leave it out")
    if f.any("max_tokens") == 0:
        if not echo:
            raise bad("max_tokens", "max_tokens must be at least 1, or 0 with echo")
        wanted = dataclasses.replace(wanted, max_tokens=0)
    elif wanted.max_tokens is None:
        wanted = dataclasses.replace(wanted, max_tokens=16)  # as OpenAI's
    return Text(model, prompts, wanted, echo)


def _at_least_one(f: Fields) -> int | None:
    value = f.integer("max_tokens", 0)
    return 1 if value == 0 else value


def _prompts(prompt: Any) -> list[str | list[int]]:
    said = "prompt must be a string, an array of strings, or token ids"
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise bad("prompt", said if prompt is not None else "prompt is missing")
    if _are_ids(prompt):
        return [prompt]
    if len(prompt) > MOST_PROMPTS:
        raise bad("prompt", f"prompt has {len(prompt)} texts, at most {MOST_PROMPTS}")
    if not all(isinstance(p, str) or (_are_ids(p) and p) for p in prompt):
        raise bad("prompt", said)
    return prompt


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int for i in value)


def budget(d: Drawing, max_tokens: int) -> int | None:
    """Tokens that the thought may have; None: all."""
    if d.budget is not None:
        return d.budget
    return None if d.effort is None else math.floor(d.effort * max_tokens)
