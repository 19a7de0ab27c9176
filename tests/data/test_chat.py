import json
import re
import shutil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.checks import InputError
from r1jax.data.chat import (
    ChatTemplate,
    Split,
    ThinkingSplitter,
    opens_thinking,
    read_messages,
    split_thinking,
)
from r1jax.data.tokenizer import Tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n4 <ok>"},
    {"role": "user", "content": "你好 🙂"},
]
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Köln & Bonn?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Köln"}'},
            }
        ],
    },
    {"role": "tool", "content": "<rain>"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Wie ist's in Köln?"}}]

# In the manner of Qwen2.5's: blocks on lines of their own, tojson, a namespace, a loop left early.
CHATML = """\
{%- set ns = namespace(system="You are helpful.") %}
{%- for message in messages %}
    {%- if message.role != "system" %}{% break %}{% endif %}
    {%- set ns.system = message.content %}
{%- endfor %}
{{- bos_token }}<|im_start|>system
{{ ns.system }}
{%- if tools %}

# Tools
    {% for tool in tools %}
{{ tool | tojson }}
    {% endfor %}
{%- endif %}
<|im_end|>
{% for message in messages %}
    {% if message.role == "tool" and not tools %}
{{ raise_exception("no tools\\nwere given") }}
    {% elif message.role != "system" %}
<|im_start|>{{ message.role }}
{{ message.content if message.content is not none else message.tool_calls | tojson(indent=1) }}\
{{ eos_token }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""


DEEPSEEK_END = "{{'<｜Assistant｜>'}}{% endif %}"
R1_DISTILL_END = "{{'<｜Assistant｜><think>\\n'}}{% endif %}"


@pytest.fixture(scope="module")
def deepseek_source(data_dir):
    file = data_dir / "tokenizers" / "deepseek_r1" / "tokenizer_config.json"
    source = json.loads(file.read_text("utf-8"))["chat_template"]
    assert source.endswith(DEEPSEEK_END)
    return source


@pytest.fixture(scope="module")
def deepseek(data_dir):
    return ChatTemplate.load(data_dir / "tokenizers" / "deepseek_r1" / "tokenizer.json")


def of(source, **tokens):
    return ChatTemplate({"default": source}, tokens, "model.json")


# The expected texts are what transformers 5.23.0 renders; test_as_transformers_renders compares
# live where it is installed.
DEEPSEEK_TALK = (
    "<｜begin▁of▁sentence｜>Be brief.<｜User｜>2+2?<｜Assistant｜>\n\n4 <ok><｜end▁of▁sentence｜>"
    "<｜User｜>你好 🙂"
)


def test_deepseek_conversation(deepseek):
    assert deepseek.render(TALK, add_generation_prompt=False) == DEEPSEEK_TALK
    assert deepseek.render(TALK) == DEEPSEEK_TALK + "<｜Assistant｜>"
    assert not opens_thinking(deepseek.render(TALK))


def test_deepseek_ids(data_dir, deepseek):
    tokenizer = Tokenizer.load(data_dir / "tokenizers" / "deepseek_r1")
    ids = [0, 7153, 9708, 16, 128803, 20, 13, 20, 33, 128804, 271, 22, 818, 633, 32, 1, 128803,
           30594, 68139, 128804]  # fmt: skip
    assert tokenizer.encode(deepseek.render(TALK)) == ids
    assert tokenizer.encode_prompt(deepseek.render(TALK)) == ids  # one bos, not two


def test_deepseek_tool_calls(deepseek):
    expected = (
        "<｜begin▁of▁sentence｜><｜User｜>Weather in Köln & Bonn?<｜Assistant｜>"
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Köln"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜><rain><｜tool▁output▁end｜>"
        "<｜tool▁outputs▁end｜>"
    )
    assert deepseek.render(CALLS) == expected
    without = {key: value for key, value in CALLS[1].items() if key != "content"}
    assert deepseek.render([CALLS[0], without, CALLS[2]]) == expected


def test_a_null_field_is_as_if_absent(deepseek):
    null = [message | {"tool_calls": None, "name": None} for message in TALK]
    assert deepseek.render(null) == deepseek.render(TALK)


def test_r1_distill_opens_thinking(deepseek_source):
    source = deepseek_source.replace(DEEPSEEK_END, R1_DISTILL_END)
    prompt = of(source, bos_token="<｜begin▁of▁sentence｜>").render(TALK)
    assert prompt == DEEPSEEK_TALK + "<｜Assistant｜><think>\n"
    assert opens_thinking(prompt)


def test_blocks_tools_and_json():
    template = of(CHATML, bos_token="<s>", eos_token="</s>")
    assert template.render(TALK) == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?</s>\n"
        "<|im_start|>assistant\n<think>\nEasy.\n</think>\n\n4 <ok></s>\n"
        "<|im_start|>user\n你好 🙂</s>\n<|im_start|>assistant\n"
    )
    assert template.render(CALLS, add_generation_prompt=False, tools=TOOLS) == (
        "<s><|im_start|>system\nYou are helpful.\n# Tools\n"
        '{"type": "function", "function": {"name": "weather", '
        '"description": "Wie ist\'s in Köln?"}}\n<|im_end|>\n'
        "<|im_start|>user\nWeather in Köln & Bonn?</s>\n<|im_start|>assistant\n"
        '[\n {\n  "type": "function",\n  "function": {\n   "name": "weather",\n'
        '   "arguments": "{\\"city\\": \\"Köln\\"}"\n  }\n }\n]</s>\n<|im_start|>tool\n<rain></s>\n'
    )


def test_variables_and_absent_tokens():
    template = of("{{ bos_token }}{{ enable_thinking }}{{ documents is none }}{{ tools is none }}")
    assert template.render(TALK, enable_thinking=False) == "FalseTrueTrue"


@pytest.fixture(scope="module", params=["deepseek_r1", "r1_distill", "chatml"])
def peers(request, data_dir, tmp_path_factory, deepseek_source):
    """(our template, our tokenizer, transformers' of both), of a small tokenizer for speed."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("peers")
    shutil.copytree(data_dir / "stories260k" / "hf", folder, dirs_exist_ok=True)
    source = {
        "deepseek_r1": deepseek_source,
        "r1_distill": deepseek_source.replace(DEEPSEEK_END, R1_DISTILL_END),
        "chatml": CHATML,
    }[request.param]
    (folder / "chat_template.jinja").write_text(source, "utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return ChatTemplate.load(folder), Tokenizer.load(folder), theirs


MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool"]),
        "content": st.text("a <>\n&é🙂'", max_size=8) | st.just("<think>x</think>\n\ny"),
    }
)


@settings(deadline=None, max_examples=50)
@given(talk=st.lists(MESSAGES, min_size=1, max_size=5), more=st.booleans())
def test_as_transformers_renders(peers, talk, more):
    template, tokenizer, theirs = peers
    text = template.render(talk, add_generation_prompt=more, tools=TOOLS)
    given = {"tools": TOOLS, "add_generation_prompt": more}
    assert text == theirs.apply_chat_template(talk, tokenize=False, **given)
    assert tokenizer.encode(text) == theirs.apply_chat_template(talk, **given)["input_ids"]


HOSTILE = [
    ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "'__class__' of 'list' .* unsafe"),
    ("{{ lipsum.__globals__['os'].mkdir(path) }}", "'__globals__' of 'function' .* unsafe"),
    ("{{ cycler.__init__.__globals__.os.mkdir(path) }}", "'__init__' of 'type' .* unsafe"),
    ("{{ ('{0.__class__.__mro__}' | attr('format'))(path) }}", "'__class__' of 'str' .* unsafe"),
    ("{{ strftime_now.__globals__['json'] }}", "'__globals__' of 'function' .* unsafe"),
    ("{% set ns = namespace() %}{% set ns.__call__ = cycler %}", "cannot hold '__call__'"),
    ("{{ namespace(_x=1) }}", "cannot hold '_x'"),
    ("{{ messages.append(1) }}", "'append' of 'list' .* unsafe"),
    ("{% include '/etc/passwd' %}", "no loader"),
    ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError: Range too big"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
]
BROKEN = [
    ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
    ("{{ 'a' + none }}", "TypeError: can only concatenate"),
    ("{{ message.content }}", "'message' is undefined"),
    ("{{ raise_exception('roles\nmust alternate') }}", "roles must alternate$"),
]


@pytest.mark.parametrize(("source", "message"), HOSTILE + BROKEN)
def test_template_that_fails(tmp_path, source, message):
    with pytest.raises(
        InputError, match=rf"^model\.json: chat_template failed: .*{message}"
    ) as error:
        of(source).render(TALK, path=str(tmp_path / "made"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("source", ["a\n{% if %}", "a\n{{ x", "a\n{% generate %}"])
def test_template_that_is_none(source):
    with pytest.raises(InputError, match=r"^model\.json: chat_template: line 2: ") as error:
        of(source)
    assert "\n" not in str(error.value)


def test_named_templates_and_the_separate_file(tmp_path):
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    config.write_text(json.dumps({"chat_template": named, "eos_token": "<eos>"}))
    template = ChatTemplate.load(tmp_path)
    assert (template.render(TALK), template.render(TALK, tools=TOOLS)) == ("plain", "tools")
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}\n")
    assert ChatTemplate.load(tmp_path).render(TALK) == "<eos>"
    config.unlink()
    assert ChatTemplate.load(tmp_path).render(TALK) == ""
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"chat_template\.jinja: not UTF-8"):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no such file"),
        ("{", "invalid JSON"),
        ("{}", "no chat_template"),
        ('{"chat_template": 3}', "chat_template must be a string or a list of"),
        ('{"chat_template": [{"name": "default"}]}', "chat_template must be a string or a list of"),
        ('{"chat_template": ["x"]}', "chat_template must be a string or a list of"),
        ('{"chat_template": "x", "bos_token": 1}', "bos_token must be"),
        ('{"chat_template": []}', "no chat_template is named 'default'"),
        ('{"chat_template": [{"name": "rag", "template": ""}]}', "no chat_template is named"),
    ],
)
def test_bad_config(tmp_path, config, message):
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(InputError, match=rf"/tokenizer_config\.json: .*{message}") as error:
        ChatTemplate.load(tmp_path).render(TALK)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages must not be empty"),
        ("hi", "messages must be a list"),
        (["hi"], r"messages\[0\] must be an object"),
        ([{"content": "hi"}], r"messages\[0\]\.role must be one of system, .*, got None"),
        ([TALK[0], {"role": "asistant", "content": ""}], r"messages\[1\]\.role .* 'asistant'"),
        ([{"role": [], "content": ""}], r"messages\[0\]\.role must be"),
        ([{"role": "user"}], r"messages\[0\]\.content must be a string"),
        ([{"role": "user", "content": None, "tool_calls": [1]}], r"messages\[0\]\.content"),
        ([{"role": "assistant", "content": None}], r"messages\[0\]\.content"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"messages\[0\]\.content has a part"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}],
            r"messages\[0\]\.content has a part that is no text: 'image_url'",
        ),
    ],
)
def test_bad_messages(messages, message):
    with pytest.raises(InputError, match=message):
        read_messages(messages)


@pytest.mark.parametrize(
    ("reply", "opened", "expected"),
    [
        ("<think>a</think>b", False, ("a", "b")),
        ("\n <think>\na\n</think>\n\nb", False, ("\na\n", "\n\nb")),
        ("a\n</think>\n\nb", True, ("a\n", "\n\nb")),
        ("<think>\na</think>b", True, ("\na", "b")),  # repeats what the prompt ended with
        ("a</think>b", False, ("", "a</think>b")),
        ("A tag: <think>x</think>", False, ("", "A tag: <think>x</think>")),
        ("<think>a<think>b</think>c</think><think>", False, ("a<think>b", "c</think><think>")),
        ("<think>a</thin", False, ("a</thin", "")),  # cut: an empty answer
        ("a <", True, ("a <", "")),
        (" <thi", True, (" <thi", "")),
        (" <thi", False, ("", " <thi")),
        ("<think></think>", False, ("", "")),
        ("", True, ("", "")),
    ],
)
def test_split_thinking(reply, opened, expected):
    assert split_thinking(reply, opened) == expected


SCRAPS = ["<think>", "</think>", "<", "</", "th", "ink>", "think>", " ", "\n", "a", "é"]


@settings(deadline=None, max_examples=300)
@given(
    text=st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join),
    opened=st.booleans(),
    data=st.data(),
)
def test_streamed_is_the_whole_and_hardly_late(text, opened, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    splitter = ThinkingSplitter(opened)
    thinking = answer = ""
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        piece = splitter.feed(text[start:end])
        thinking, answer = thinking + piece.thinking, answer + piece.answer
        sure = split_thinking(text[:end], opened)
        assert (sure.thinking + sure.answer).startswith(thinking + answer)
        held = len(sure.thinking + sure.answer) - len(thinking + answer)
        assert held < len("</think>") or "<think>".startswith(text[:end].lstrip())
    last = splitter.flush()
    assert Split(thinking + last.thinking, answer + last.answer) == slow_split(text, opened)
    assert splitter.flush() == ("", "")


def slow_split(text, opened):
    begun = re.match(r"\s*<think>", text)
    if not begun and not opened:
        return Split("", text)
    thinking, _, answer = text[begun.end() if begun else 0 :].partition("</think>")
    return Split(thinking, answer)
