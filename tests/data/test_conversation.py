"""What a model is asked and trained on, by the templates of R1-Distill, Qwen2.5's kind and
DeepSeek-R1, with a thought in the message and beside it."""

import dataclasses
import json
import shutil

import pytest
import tiny_run

from r1jax.checks import InputError
from r1jax.config import SFTConfig
from r1jax.data.conversation import document, make_conversation
from r1jax.data.countdown import VOCABULARY
from r1jax.data.documents import read_documents, read_row
from r1jax.data.tokenizer import Tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = {"role": "user", "content": "2+3?"}
INSIDE = {"role": "assistant", "content": "<think>\nadd\n</think>\n\n5"}
BESIDE = {"role": "assistant", "reasoning_content": "add", "content": "5"}
NONE = {"role": "assistant", "content": "5"}
# Rows of OpenR1-Math-220k and OpenThoughts-114k, with all their columns.
OPEN_R1 = {
    "problem": "2+3?", "solution": "add", "answer": "5", "problem_type": "Algebra",
    "question_type": "math-word-problem", "source": "olympiads", "uuid": "a",
    "is_reasoning_complete": [True, False], "generations": [INSIDE["content"], "<think>\nhm"],
    "correctness_math_verify": [True, False], "correctness_llama": None,
    "finish_reasons": None, "correctness_count": 1, "messages": [QUESTION, INSIDE],
}  # fmt: skip
OPEN_THOUGHTS = {
    "system": "Structure your response into Thought and Solution.",
    "conversations": [
        {"from": "user", "value": "2+3?"},
        {"from": "assistant",
         "value": "<|begin_of_thought|>\n\nadd\n\n<|end_of_thought|>\n\n"
         "<|begin_of_solution|>\n\n5\n\n<|end_of_solution|>"},
    ],
}  # fmt: skip
R1_PROMPT = "<｜begin▁of▁sentence｜><｜User｜>2+3?<｜Assistant｜>"
R1_END, ML_END = "<｜end▁of▁sentence｜>", "<|im_end|>"
ML_PROMPT = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folders(data_dir, tmp_path_factory):
    """Of each kind: the published tokenizer, with its chat template beside it."""
    root, tokenizers = tmp_path_factory.mktemp("models"), data_dir / "tokenizers"
    published = json.loads((tokenizers / "deepseek_r1" / "tokenizer_config.json").read_text())
    source = published["chat_template"]
    distill = source.replace(
        "{{'<｜Assistant｜>'}}{% endif %}", "{{'<｜Assistant｜><think>\\n'}}{% endif %}"
    )
    assert distill != source
    for name, tokenizer, template in (
        ("deepseek", "deepseek_r1", source),
        ("distill", "r1_distill_qwen", distill),
        ("chatml", "qwen2_5", CHATML),
    ):
        folder = root / name
        shutil.copytree(tokenizers / tokenizer, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        (folder / "chat_template.jinja").write_text(template)
    base = {"eos_token": "<|endoftext|>", "add_bos_token": False}  # of Qwen2.5 that is not tuned
    (root / "chatml" / "tokenizer_config.json").write_text(json.dumps(base))
    return root


@pytest.fixture(scope="module")
def conversations(folders):
    return {p.name: make_conversation(Tokenizer.load(p), p) for p in folders.iterdir()}


def texts(conversation, *messages):
    """(prompt, trained text) as the model's own tokens decode."""
    prompt, answer, thought = read_row({"messages": list(messages)})
    ids, trained = conversation.document(conversation.prompt(prompt), answer, thought)
    assert ids == conversation.prompt_ids(prompt)  # as a reply is drawn behind it
    return tuple(conversation.tokenizer.decode(part) for part in (ids, trained))


@pytest.mark.parametrize(
    "name, message, prompt, trained",
    [
        ("distill", INSIDE, R1_PROMPT + "<think>\n", "add\n</think>\n\n5" + R1_END),
        ("distill", BESIDE, R1_PROMPT + "<think>\n", "add\n</think>\n\n5" + R1_END),
        ("distill", NONE, R1_PROMPT + "<think>\n", "\n</think>\n\n5" + R1_END),
        ("deepseek", INSIDE, R1_PROMPT, "<think>\nadd\n</think>\n\n5" + R1_END),
        ("deepseek", BESIDE, R1_PROMPT, "<think>\nadd\n</think>\n\n5" + R1_END),
        ("deepseek", NONE, R1_PROMPT, "5" + R1_END),
        ("chatml", INSIDE, ML_PROMPT, "<think>\nadd\n</think>\n\n5" + ML_END),
        ("chatml", BESIDE, ML_PROMPT, "<think>\nadd\n</think>\n\n5" + ML_END),
        ("chatml", NONE, ML_PROMPT, "5" + ML_END),
    ],
)
def test_trained_text_is_the_prompt_and_our_own_completion(
    conversations, name, message, prompt, trained
):
    """One <think>, kept though DeepSeek's template drops thoughts; the turn ends as ChatML ends
    it, which is not what Qwen2.5's base names its end of sequence."""
    assert texts(conversations[name], QUESTION, message) == (prompt, trained)


@pytest.mark.parametrize(
    "content, trained",
    [
        ("add\n</think>\n\n5", "add\n</think>\n\n5"),  # what R1-Distill itself writes
        ("<think>add</think>5", "add</think>5"),
        ("\n<think>\n\nadd\n</think>\n5", "\nadd\n</think>\n5"),
        ("<think>\n\n</think>\n\n5", "\n</think>\n\n5"),
    ],
)
def test_an_opened_thought_is_not_opened_again(conversations, content, trained):
    reply = {"role": "assistant", "content": content}
    got = texts(conversations["distill"], QUESTION, reply)
    assert got == (R1_PROMPT + "<think>\n", trained + R1_END)


def test_a_thought_without_its_first_tag_gets_it_where_the_prompt_has_none(conversations):
    reply = {"role": "assistant", "content": "add\n</think>\n\n5"}
    assert texts(conversations["deepseek"], QUESTION, reply)[1] == "<think>\n" + (
        "add\n</think>\n\n5" + R1_END
    )


def test_earlier_turns_are_rendered_by_the_template_as_published(conversations):
    prompt, trained = texts(
        conversations["distill"], QUESTION, INSIDE, {"role": "user", "content": "And 2?"}, BESIDE
    )
    assert prompt == f"{R1_PROMPT}\n\n5{R1_END}<｜User｜>And 2?<｜Assistant｜><think>\n"
    assert trained == "add\n</think>\n\n5" + R1_END


@pytest.mark.parametrize(
    "message, error",
    [
        (BESIDE | {"content": "<think>\nadd\n</think>\n5"}, "thought is given apart, and it holds"),
        (NONE | {"content": 5}, "content must be a string"),
        (NONE | {"tool_calls": [{"function": {}}]}, "calls tools cannot be trained on"),
        ({"role": "user", "content": "5"}, "the last message must be the assistant's"),
    ],
)
def test_replies_that_cannot_be_trained_on(conversations, message, error):
    with pytest.raises(InputError, match=error):
        texts(conversations["distill"], QUESTION, message)


def test_generation_ends_where_training_ends(conversations):
    qwen = conversations["chatml"].tokenizer
    assert {qwen.eos_id, qwen.encode(ML_END)[0]} == qwen.end_ids and qwen.eos_id != 151645
    ids = qwen.encode("5" + ML_END)
    assert conversations["chatml"].reply(ML_PROMPT, ids) == "5"


def test_a_question_that_is_a_prompt_already_is_refused(conversations):
    for name, text in (("distill", R1_PROMPT), ("chatml", ML_PROMPT)):
        with pytest.raises(InputError, match="pass --conversation=plain"):
            conversations[name].prompt(text)


def test_what_is_chosen(folders, data_dir):
    bare, chatty = data_dir / "tokenizers" / "r1_distill_qwen", folders / "distill"
    tokenizer = Tokenizer.load(bare)

    def form(files, *wanted):
        return make_conversation(tokenizer, files, *wanted).form

    assert form(chatty) == form(chatty, "chat") == "chat"
    assert form(bare) == form(chatty, "plain") == form(bare, "auto", "plain") == "plain"
    assert form(bare, "auto", "r1_zero") == form(chatty, "r1_zero") == "r1_zero"
    with pytest.raises(InputError, match="no chat_template"):
        form(bare, "chat")
    words = Tokenizer.words(VOCABULARY)
    embedded = make_conversation(words, "")
    assert embedded.form == "embedded"
    prompt = embedded.prompt("use 1 to make 1")
    assert prompt == embedded.prompt(prompt) == "use 1 to make 1 <think>"
    reply = embedded.reply(prompt, words.encode("1 </think> <eos>"))
    assert reply == "<think> 1 </think>"
    # And back: what it drew can be trained on.
    assert embedded.document(prompt, reply) == (
        words.encode("use 1 to make 1 <think>"),
        words.encode("1 </think> <eos>"),
    )
    with pytest.raises(
        InputError, match="--conversation=r1_zero: the embedded model knows its own"
    ):
        make_conversation(words, "", "r1_zero")


def test_r1_zero_and_plain(data_dir):
    files = data_dir / "tokenizers" / "r1_distill_qwen"
    tokenizer = Tokenizer.load(files)
    zero, plain = (make_conversation(tokenizer, files, name) for name in ("r1_zero", "plain"))
    assert zero.prompt([QUESTION]) == zero.prompt("2+3?")
    assert zero.prompt("2+3?").endswith("User: 2+3? Assistant:")
    assert zero.completion(zero.prompt("2+3?"), "5") == " 5"
    assert plain.prompt("2+3?") == "2+3?" and plain.completion("2+3?", " is </think>") == (
        " is </think>"
    )
    for conversation, messages in ((plain, [QUESTION]), (zero, [QUESTION, NONE, QUESTION])):
        with pytest.raises(InputError, match="messages need a chat template"):
            conversation.prompt(messages)
    with pytest.raises(InputError, match="thought apart from its reply needs a chat template"):
        plain.completion("2+3?", "5", "add")


def test_a_token_over_the_seam(conversations):
    r"""Behind `<think>\n`, which is how a reply is drawn, `\n` and `\n\n` are other tokens."""
    conversation = conversations["distill"]
    tokenizer, prompt = conversation.tokenizer, R1_PROMPT + "<think>\n"
    joined = tokenizer.encode_prompt(prompt + "\n</think>")
    assert joined[: len(tokenizer.encode_prompt(prompt))] != tokenizer.encode_prompt(prompt)
    exact = document(tokenizer, prompt, "\n</think>", exact=True)
    assert exact[0] == tokenizer.encode_prompt(prompt)
    assert tokenizer.decode(exact[1]) == "\n</think>" + R1_END


def sft(folder, path, rows, **fields):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_run.CONFIG.model
    return SFTConfig(model=model, base="", tokenizer=str(folder), data=str(path), **fields)


def test_published_forms_of_rows_are_one(folders, conversations, tmp_path):
    rows = [
        {"messages": [QUESTION, INSIDE]},
        {"prompt": "2+3?", "completion": INSIDE["content"]},
        {"prompt": [QUESTION], "completion": [BESIDE]},
        {"messages": [{**one, "content": [{"type": "text", "text": one["content"]}]}
                      for one in (QUESTION, INSIDE)]},
        {"conversations": [{"from": "human", "value": "2+3?"},
                           {"from": "gpt", "value": INSIDE["content"]}]},
        {"instruction": "2+3?", "input": "", "output": INSIDE["content"]},
        OPEN_R1,
        OPEN_THOUGHTS,
        {"problem": "2+3?", "deepseek_reasoning": "add", "deepseek_solution": "5",
         "ground_truth_solution": None, "domain": "math", "source": "a", "test_cases": None,
         "starter_code": None},
    ]  # fmt: skip
    cfg = sft(folders / "distill", tmp_path / "rows.jsonl", rows)
    documents = read_documents(cfg, conversations["distill"])
    assert len(documents) == 9 and all(d == documents[0] for d in documents)


@pytest.mark.parametrize("row", [OPEN_R1, OPEN_THOUGHTS])
def test_published_traces_in_their_own_files(folders, conversations, tmp_path, row):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([row, row]), tmp_path / "a.parquet")
    cfg = sft(folders / "distill", tmp_path / "a.jsonl", [{"messages": [QUESTION, INSIDE]}])
    one, distill = read_documents(cfg, conversations["distill"]), conversations["distill"]
    cfg = dataclasses.replace(cfg, data=str(tmp_path / "a.parquet"))
    assert read_documents(cfg, distill) == [*one, *one]


def test_a_row_says_how_its_reply_was_asked_for(folders, conversations, tmp_path):
    """As rejection sampling's do: <answer> tags are not what a chat model is to learn."""
    row = {"prompt": "2+3?", "completion": "<think>add</think> <answer>5</answer>"}
    cfg = sft(folders / "distill", tmp_path / "a.jsonl", [row, row | {"form": "r1_zero"}])
    said = "a.jsonl:2: the reply: of the conversation r1_zero .*is asked by chat"
    with pytest.raises(InputError, match=said):
        read_documents(cfg, conversations["distill"])


def test_rows_without_a_thought_are_counted(folders, conversations, tmp_path):
    rows = [{"messages": [QUESTION, INSIDE]}, {"messages": [QUESTION, NONE]}]
    said = []
    cfg = sft(folders / "distill", tmp_path / "rows.jsonl", rows)
    read_documents(cfg, conversations["distill"], said.append)
    assert len(said) == 1 and "1 of 2 replies have no thought, the first at line 2" in said[0]


@pytest.mark.parametrize(
    "row, error",
    [
        (
            {"text": "a"},
            r'rows.jsonl:1: missing field "prompt"; a row has "prompt" and "comp.*text',
        ),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "must be one of system, human.*'bot'"),
        ({"prompt": "a"}, 'rows.jsonl:1: missing field "completion"'),
        ({"prompt": "a", "completion": " \n"}, "rows.jsonl:1: the reply is empty"),
        (
            {"prompt": "a", "completion": "<think>\nwell, 2 + 3 is"},
            "rows.jsonl:1: the reply begins with <think>, and no </think> ends the thought",
        ),
    ],
)
def test_other_rows_are_told_what_is_read(folders, conversations, tmp_path, row, error):
    with pytest.raises(InputError, match=error):
        read_documents(
            sft(folders / "distill", tmp_path / "rows.jsonl", [row]), conversations["distill"]
        )


def test_documents_that_are_too_long(folders, conversations, tmp_path):
    long = {"role": "assistant", "content": "<think>\nadd\n</think>\n\n" + "5 " * 50}
    rows = [{"messages": [QUESTION, INSIDE]}, {"messages": [QUESTION, long]}]
    distill, path = conversations["distill"], tmp_path / "rows.jsonl"
    with pytest.raises(InputError, match=r"1 of 2 documents are.*rows.jsonl:2, has \d+: --length="):
        read_documents(sft(folders / "distill", path, rows, length=30), distill)
    said: list[str] = []
    dropping = sft(folders / "distill", path, rows, length=30, long_documents="drop")
    assert len(read_documents(dropping, distill, said.append)) == 1 and "left out" in said[0]
    with pytest.raises(InputError, match="none is left"):
        read_documents(sft(folders / "distill", path, rows[1:], length=30, long_documents="drop"),
                       distill)  # fmt: skip


def test_field_cases(folders, conversations, data_dir):
    """Rows of the area "sft": one <think>, the reasoning kept, the template's own end of turn."""
    file = data_dir / "field_cases" / "cases.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    twice, beside, end = (row["row"]["messages"] for row in rows if row["area"] == "sft")
    whole = "".join(texts(conversations["distill"], *twice))
    assert whole.count("<think>") == 1
    assert "".join(texts(conversations["distill"], *beside)) == whole
    assert texts(conversations["chatml"], *end)[1] == end[-1]["content"] + ML_END
