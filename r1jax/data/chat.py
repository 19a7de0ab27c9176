"""From a conversation to the prompt that a chat model reads, and from its reply to thinking and
answer."""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from r1jax.checks import InputError, check
from r1jax.data.tokenizer import special_tokens
from r1jax.files import read_object

ROLES = ("system", "user", "assistant", "tool")
OPEN, CLOSE = "<think>", "</think>"

Message = Mapping[str, Any]  # "role", "content" and what the template knows beside, plain JSON


class ChatTemplate:
    """A published chat template: messages -> the text of the prompt, as Transformers renders it.

    A template is a program by a stranger. It runs in jinja2's sandbox, where it reaches neither
    Python's internals nor files; its running time and memory are not bounded.
    """

    def __init__(self, sources: Mapping[str, str], tokens: Mapping[str, str], where: str):
        """sources: name -> jinja2 source; "default", and "tool_use" for when tools are given.
        tokens: what templates call bos_token and so on. where: the file, for error messages."""
        self._tokens, self._where = dict(tokens), where
        env = _environment()
        self.takes_tools = any(re.search(r"\btools\b", text) for text in sources.values())
        try:
            self._templates = {name: env.from_string(text) for name, text in sources.items()}
        except jinja2.TemplateSyntaxError as error:
            reason = f"line {error.lineno}: {_one_line(error.message)}"
            raise InputError(f"{where}: chat_template: {reason}") from None

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether `load` finds one there; it may be malformed."""
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        config = read_object(folder / "tokenizer_config.json") or {}
        return (folder / "chat_template.jinja").is_file() or bool(config.get("chat_template"))

    @classmethod
    def load(cls, path: str | Path) -> "ChatTemplate":
        """Of a model's directory, or of the tokenizer.json in it.

        From `chat_template.jinja`, else from `chat_template` in `tokenizer_config.json`: a string,
        or a list of `{"name": ..., "template": ...}`. Raises InputError, naming the file, if there
        is none or it is malformed.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        file = folder / "tokenizer_config.json"
        config = read_object(file)
        tokens = {} if config is None else special_tokens(config, file)
        separate = folder / "chat_template.jinja"
        if separate.is_file():
            try:
                return cls({"default": separate.read_text("utf-8")}, tokens, str(separate))
            except UnicodeDecodeError as error:
                raise InputError(f"{separate}: not UTF-8: {error}") from None
        check(config is not None, f"{file}: no such file, so no chat template")
        value = (config or {}).get("chat_template")
        check(value is not None, f"{file}: no chat_template, and no chat_template.jinja beside it")
        return cls(_named(value, file), tokens, str(file))

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt, special tokens written out (bos too where the template has it), so that
        `Tokenizer.encode` gives its ids. A special token's name inside a message becomes that
        token as well: whoever lets strangers write messages must mind that.

        add_generation_prompt: end where the assistant's next reply begins. tools: JSON schemas of
        functions. variables: what else the template asks for, such as enable_thinking. Raises
        InputError for a malformed message, or if the template fails or refuses the messages.
        """
        messages = read_messages(messages)
        name = "tool_use" if tools is not None and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise InputError(f"{self._where}: no chat_template is named 'default'")
        # As Transformers does, a field that is null is left out (clients send `"tool_calls": null`,
        # templates ask whether it is there), but for content: DeepSeek's asks whether it is none.
        plain = [
            {key: value for key, value in message.items() if value is not None}
            | {"content": message.get("content")}
            for message in messages
        ]
        given = {"messages": plain, "tools": tools, "documents": None}
        given |= {"add_generation_prompt": add_generation_prompt} | self._tokens | variables
        try:
            return self._templates[name].render(given)
        except Exception as error:  # a program: any of Python's errors may come of running it
            kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
            reason = kind + _one_line(str(error))
            raise InputError(f"{self._where}: chat_template failed: {reason}") from error


def read_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages with their content as text: it may be a list of {"type": "text", "text": ...},
    as OpenAI's API has it. Raises InputError, naming the message and its field, unless a template
    can take them.

    Templates pass over what they do not expect, so a misspelt role would drop its message.
    """
    check(isinstance(messages, list | tuple), "messages must be a list")
    check(len(messages) > 0, "messages must not be empty")
    found: list[Message] = []
    for i, message in enumerate(messages):
        check(isinstance(message, Mapping), f"messages[{i}] must be an object")
        role, content = message.get("role"), _text(message.get("content"), f"messages[{i}]")
        check(role in ROLES, f"messages[{i}].role must be one of {', '.join(ROLES)}, got {role!r}")
        calls = role == "assistant" and content is None and bool(message.get("tool_calls"))
        check(isinstance(content, str) or calls, f"messages[{i}].content must be a string")
        found.append({**message, "content": content} if content is not None else message)
    return found


def _text(content: Any, where: str) -> Any:
    """The text of a message's parts; a content that has none is as it was."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else part
        text = part.get("text") if kind == "text" else None
        check(isinstance(text, str), f"{where}.content has a part that is no text: {kind!r:.40}")
    return "".join(part["text"] for part in content)


class Split(NamedTuple):
    thinking: str
    answer: str


class ThinkingSplitter:
    """Separates thinking from answer while a reply comes in, tags cut anywhere.

    Thinking is what stands between a `<think>` at the very start of the reply (white space before
    it is dropped) and the next `</think>`; the rest is answer, any other tag included. opened:
    the prompt ended with `<think>`, so the reply starts inside (R1-Distill's template); one that
    the model repeats is dropped. A reply cut while thinking has an empty answer.
    """

    def __init__(self, opened: bool = False):
        self._opened = opened
        self._place = "start"  # then "thinking", then "answer"
        self._held = ""  # what may turn out to be a tag
        self.closed = False  # whether the thought's end was seen

    @property
    def answering(self) -> bool:
        return self._place == "answer"

    @property
    def inside(self) -> bool:
        """Whether a reply that ended now would have ended in its thought."""
        return self._place == "thinking" or (self._place == "start" and self._opened)

    def feed(self, text: str) -> Split:
        """What is now certain, of each."""
        text, self._held = self._held + text, ""
        if self._place == "start":
            begun = text.lstrip()
            if begun != OPEN and OPEN.startswith(begun):
                self._held = text
                return Split("", "")
            tagged = begun.startswith(OPEN)
            self._place = "thinking" if tagged or self._opened else "answer"
            text = begun.removeprefix(OPEN) if tagged else text
        if self._place == "answer":
            return Split("", text)
        thinking, tag, answer = text.partition(CLOSE)
        if tag:
            self._place, self.closed = "answer", True
        else:
            cut = len(thinking) - overlap(thinking, CLOSE)
            thinking, self._held = thinking[:cut], thinking[cut:]
        return Split(thinking, answer)

    def flush(self) -> Split:
        """What was held back, at the end of the reply: it was no tag."""
        text, self._held = self._held, ""
        return Split(text, "") if self.inside else Split("", text)


def split_thinking(reply: str, opened: bool = False) -> Split:
    """A whole reply's thinking and answer, as ThinkingSplitter separates them."""
    splitter = ThinkingSplitter(opened)
    first, last = splitter.feed(reply), splitter.flush()
    return Split(first.thinking + last.thinking, first.answer + last.answer)


def opens_thinking(prompt: str) -> bool:
    """Whether the reply to this prompt starts inside of thinking."""
    return prompt.rstrip().endswith(OPEN)


def overlap(text: str, tag: str) -> int:
    """The length of the longest end of text that is a beginning of tag, not all of it."""
    return next(n for n in reversed(range(len(tag))) if text.endswith(tag[:n]))


def _named(value: Any, file: Path) -> dict[str, str]:
    """name -> source, of a tokenizer_config.json's chat_template."""
    if isinstance(value, str):
        return {"default": value}
    ok = isinstance(value, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
        for entry in value
    )
    wanted = "a string or a list of objects with the strings name and template"
    check(ok, f"{file}: chat_template must be {wanted}")
    return {entry["name"]: entry["template"] for entry in value}


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for: Transformers' settings, functions and filters
    (`transformers/utils/chat_template_utils.py`)."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    env.filters["tojson"] = _to_json  # jinja2's own escapes HTML
    env.globals |= {
        "namespace": _Namespace,
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
    }
    return env


class _Namespace(Namespace):
    """jinja2's, without names such as `__call__`, by which one could pass for another object."""

    def __init__(*args, **kwargs):  # no `self`: a template may use the name
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)  # fmt: skip


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
