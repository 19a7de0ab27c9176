"""`python -m experiments.generate` on a real model: stories260K of llama2.c."""

import io
import json
import re
import shutil
import subprocess
import sys

import llama
import pytest
from test_bad_input import error_of  # noqa: F401

from experiments import generate, grade
from experiments.generate import Writer
from r1jax.data.chat import Split
from r1jax.data.conversation import make_conversation
from r1jax.data.reading import Reading
from r1jax.data.tokenizer import Tokenizer

# What llama2.c's doc/stories260K.md prints for temperature 0.
PUBLISHED = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One \
day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, \
"I want to play with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she said, "I'm sorry, mom. I didn't know what to do." Her mom \
said, "Don't worry, Lily. We can help you."""


@pytest.fixture(scope="module")
def folder(data_dir):
    return data_dir / "stories260k" / "hf"


@pytest.fixture
def run(folder, capfd):
    """run(*flags): what the command writes, on standard output and on standard error."""

    def run(*flags, model=folder):
        capfd.readouterr()
        generate.main([f"--model={model}", *map(str, flags)])
        return capfd.readouterr()

    return run


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def chatty(folder, tmp_path_factory):
    """The model with a chat template, which it was not trained on."""
    copy = tmp_path_factory.mktemp("chatty") / "hf"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think>{% endif %}"
    )
    (copy / "chat_template.jinja").write_text(template)
    return copy


def test_the_published_text_is_what_it_writes_from_nothing(run, folder):
    """As does an oracle in NumPy, token for token; 256 tokens are what llama2.c prints."""
    out, err = run("--temperature=0", "--max-tokens=256")
    assert out == PUBLISHED + "\n"
    assert re.search(r"tokens/s: \d+ tokens drawn in [\d.]+ s, once the first were", err)
    tokenizer = Tokenizer.load(folder)
    reply = llama.greedy(folder, [tokenizer.bos_id], 256, tokenizer.end_ids)
    assert tokenizer.decode(reply) == PUBLISHED


def test_the_mesh_changes_nothing(run):
    out, _ = run("--temperature=0", "--max-tokens=32", "--mesh=2x4")
    assert out.endswith("\n") and len(out) > 80 and PUBLISHED.startswith(out[:-1])


def test_one_object_a_prompt_in_order(run, folder, tmp_path):
    prompts = ["Once upon a time", "", "Tim had a red", "Lily said, \"I'm"]
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": p}) + "\n" for p in prompts)
    )
    out, _ = run(f"--prompts={tmp_path}/prompts.jsonl", "--json", "--temperature=0",
                 "--max-tokens=20")  # fmt: skip
    tokenizer = Tokenizer.load(folder)
    for n, (prompt, row) in enumerate(zip(prompts, rows(out), strict=True), start=1):
        ids = tokenizer.encode_prompt(prompt)
        reply = llama.greedy(folder, ids, 20, tokenizer.end_ids)
        # The blank between the two is there, which the reply's tokens alone would not show.
        whole, shown = (tokenizer.decode(i[1:]) for i in ([*ids, *reply], ids))
        assert row == {
            "id": str(n), "sample": 0, "prompt": prompt, "completion": tokenizer.decode(reply),
            "thinking": "", "text": whole.removeprefix(shown), "tokens": 20,
            "finish_reason": "length", "conversation": "plain",
        }  # fmt: skip


def test_a_story_ends_where_the_next_one_would_begin(run, folder, tmp_path):
    (tmp_path / "prompts.txt").write_text(
        "The end was near.\n\nThey all lived happily ever after.\n"
    )
    out, _ = run(f"--prompts={tmp_path}/prompts.txt", "--json", "--max-tokens=400", "--seed=1")
    found = rows(out)
    assert [row["prompt"] for row in found] == [
        "The end was near.", "", "They all lived happily ever after.",
    ]  # fmt: skip
    # The blank line keeps its place, and is not asked.
    assert (found[1]["text"], found[1]["tokens"], found[1]["finish_reason"]) == ("", 0, "not asked")
    assert "stop" in {row["finish_reason"] for row in found}
    assert not any("<s>" in row["text"] or "Once upon" in row["text"][20:] for row in found)


def test_several_are_printed_whole(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("Once upon a time\nTim had a red\n")
    flags = f"--prompts={tmp_path}/prompts.txt", "--max-tokens=12"
    out, _ = run(*flags)
    assert out == "".join(row["text"] + "\n\n" for row in rows(run(*flags, "--json")[0]))


def test_a_chat_goes_on_until_the_end_of_input(run, chatty, monkeypatch):
    flags = "--chat", "--json", "--max-tokens=9"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who is Tim?\n\nAnd Lily?"))
    first, second = rows(run(*flags, model=chatty)[0])
    assert first["prompt"] == "<s>user: Who is Tim?\nassistant: <think>"
    # The model was cut while it thought, so there is no answer.
    assert first["thinking"] and first["text"] == "" and first["finish_reason"] == "length"
    assert second["prompt"] == (
        "<s>user: Who is Tim?\nassistant: \nuser: And Lily?\nassistant: <think>"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who is Tim?"))
    out, _ = run(*flags[::2], model=chatty)
    assert out.startswith("<think>") and out.endswith("</think>\n")
    assert out[7:-9].strip() == first["thinking"]


def test_a_model_that_takes_one_question_is_asked_each_line_alone(
    run, chatty, tmp_path, monkeypatch
):
    copy = shutil.copytree(chatty, tmp_path / "hf")
    (copy / "chat_template.jinja").write_text(
        "{% if messages | length != 1 %}{{ raise_exception('one question') }}{% endif %}"
        "{{ bos_token }}{{ messages[0].content }}"
    )
    lines = ["Who is Tim?", "And Lily?", "And Ben?"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    out, said = run("--chat", "--json", "--max-tokens=9", model=copy)
    assert [row["prompt"] for row in rows(out)] == [f"<s>{line}" for line in lines]
    assert said.count("takes one question at a time: each is asked alone") == 1


def test_thinking_is_apart_however_it_comes_in():
    words = Tokenizer.words(["<pad>", "<eos>", "<think>", "</think>", "so", "hm", "then", "yes"])
    ids = words.encode("<think> so hm </think> then yes <eos>")
    for size in (1, 2, 3, 7):
        plain = make_conversation(words, "", "plain")
        reading, out = Reading(plain, "", [], max_tokens=9), io.StringIO()
        writer = Writer(out)
        for i in range(0, len(ids), size):
            writer.write(reading.feed(ids[i : i + size]))
        writer.end()
        assert (reading.thinking.strip(), reading.text) == ("so hm", "then yes")
        assert (reading.finish_reason, reading.tokens) == ("stop", 7)
        assert out.getvalue() == f"<think>{reading.thinking}</think>\nthen yes\n"


def test_a_terminal_shows_thinking_dim(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True, raising=False)
    writer = Writer(out)
    for new in (Split("so", ""), Split(" hm", ""), Split("", "yes")):
        writer.write(new)
    writer.end()
    assert out.getvalue() == "\x1b[2mso hm\x1b[0m\nyes\n"


def changed(folder, tmp_path, **fields):
    """A copy of the model whose config.json has other fields."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | fields))
    return copy


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--chat"], "tokenizer_config.json: no chat_template"),
        (["--prompt=" + "Once upon a time. " * 200], "too long to be answered"),
        (["--prompt=a", "--chat"], "--prompt and --chat exclude each other"),
        (["--max-tokens=0"], "--max-tokens must be positive, got 0"),
        (["--n=0"], "--n must lie between 1 and 1,048,576, got 0"),
        (["--n=99999999"], "--n must lie between 1 and 1,048,576, got 99999999"),
        (["--temperature=-1"], "--temperature must be finite and not negative, got -1.0"),
        (["--top-p=0"], "--top-p must lie in (0, 1], got 0.0"),
        (["--top-k=-1"], "--top-k must not be negative, got -1"),
        (["--n=2", "--chat"], "--chat goes on from one reply: leave out --n"),
        (["--conversation=chat", "--prompt=a"], "no chat_template"),
        (["--data=gsn8k=x.jsonl"], "no task is called 'gsn8k' (did you mean gsm8k?)"),
        (["--top-p=2"], "--top-p must lie in (0, 1], got 2.0"),
        (["--prompts=/absent.txt"], "/absent.txt"),
        (["--model=/absent"], "/absent: no such directory"),
        (["--model={empty}"], "neither a run's folder nor a Hugging Face directory: it has"),
        (["--mesh=8x4"], "--mesh=8x4 needs 32 devices"),
    ],
)
def test_bad_flags(error_of, folder, tmp_path, flags, message):  # noqa: F811
    flags = [flag.replace("{empty}", str(tmp_path)) for flag in flags]
    given = [] if any(flag.startswith("--model") for flag in flags) else [f"--model={folder}"]
    assert message in error_of(*given, *flags, main=generate.main)


def test_more_replies_than_a_host_holds_are_refused(error_of, folder, tmp_path):  # noqa: F811
    (tmp_path / "two.txt").write_text("Once\nTwice\n")
    flags = f"--model={folder}", f"--prompts={tmp_path / 'two.txt'}", "--n=1000000"
    assert "--n=1000000: 2,000,000 replies to 2 prompts; at most 1,048,576" in error_of(
        *flags, main=generate.main
    )


def test_a_bad_line_of_prompts_is_named(error_of, folder, tmp_path):  # noqa: F811
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    error = error_of(f"--model={folder}", f"--prompts={path}", main=generate.main)
    assert f'{path}:2: missing field "prompt"' in error


def test_a_tokenizer_that_does_not_match(error_of, folder, tmp_path):  # noqa: F811
    copy = changed(folder, tmp_path, vocab_size=500)
    error = error_of(f"--model={copy}", main=generate.main)
    assert "a tokenizer that does not match the model: it has 512 tokens" in error
    assert "vocabulary 500" in error


def test_a_model_is_needed(error_of):  # noqa: F811
    assert "--model=DIR is needed" in error_of(main=generate.main)


def test_standard_input_is_read_where_it_is_piped(run, folder, tmp_path, monkeypatch):
    command = [sys.executable, "-m", "experiments.generate", f"--model={folder}", "--max-tokens=4"]
    done = subprocess.run(
        [*command, "--json"], input="Once upon a time\n\nTim had", text=True, capture_output=True
    )
    assert [row["prompt"] for row in rows(done.stdout)] == ["Once upon a time", "", "Tim had"]

    def piped(text, *flags):
        (tmp_path / "in.txt").write_text(text)
        monkeypatch.setattr(sys, "stdin", (tmp_path / "in.txt").open())
        return run("--temperature=0", "--max-tokens=9", *flags)[0]

    given = run("--prompt=Tim had a red", "--temperature=0", "--max-tokens=9")[0]
    assert piped("Tim had a red\n") == piped("Tim had a red", "--prompts=-") == given
    assert piped("") == run("--temperature=0", "--max-tokens=9")[0]  # as from nothing


def test_n_replies_a_prompt_keep_its_id_and_feed_grade(run, tmp_path, capfd):
    problems = [
        {"id": 7, "kind": "words", "prompt": "Tim had a", "answer": "dog"},
        {"id": "b", "kind": "words", "prompt": "Lily saw", "answer": "ball"},
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in problems))
    flags = "--n=3", "--json", "--max-tokens=12", "--conversation=plain"
    out, _ = run(f"--prompts={path}", *flags)
    found = rows(out)
    assert [(row["id"], row["sample"], row["prompt"]) for row in found] == [
        (str(p["id"]), k, p["prompt"]) for p in problems for k in range(3)
    ]
    assert len({row["completion"] for row in found}) > 2  # each drawn by itself
    # As problems they are asked the same, and drawn the same.
    (tmp_path / "replies.jsonl").write_text(out)
    again = rows(run(f"--data={path}", *flags)[0])
    assert [row["completion"] for row in again] == [row["completion"] for row in found]
    grade.main([f"--data={path}", f"--completions={tmp_path}/replies.jsonl"])
    assert "6" in capfd.readouterr().out.split("words")[1].splitlines()[0]


def test_a_prompt_that_is_too_long_is_named_or_left_out(error_of, run, tmp_path):  # noqa: F811
    path = tmp_path / "prompts.txt"
    path.write_text("Tim\n" + "once upon a time " * 200 + "\n" + "a " * 600 + "\n")
    said = "2 of 3 prompts leave no room in the model's context of 512 tokens; the longest, "
    out, err = run(f"--prompts={path}", "--json", "--long-prompts=drop", "--max-tokens=5")
    assert [row["finish_reason"] for row in rows(out)] == ["length", "not asked", "not asked"]
    assert f"{said}{path}:" in err and "not asked" in err


def test_a_long_prompt_is_named_by_its_line(error_of, folder, tmp_path):  # noqa: F811
    path = tmp_path / "prompts.txt"
    path.write_text("Tim\n" + "once upon a time " * 200 + "\n")
    error = error_of(f"--model={folder}", f"--prompts={path}", main=generate.main)
    assert f"the longest, {path}:2, has " in error and "--long-prompts=drop" in error


def test_replies_that_end_early_are_said(run, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("Tim\n" + "once upon a time " * 90 + "\n")
    out, err = run(f"--prompts={path}", "--json", "--max-tokens=500")
    most = max(row["tokens"] for row in rows(out))
    assert f"replies end after {most} tokens: the longest prompt leaves no more" in err


def test_progress_of_many_prompts_is_on_standard_error(run, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "EVERY", 0.0)
    (tmp_path / "prompts.txt").write_text("Tim had a red\n" * 70)
    out, err = run(f"--prompts={tmp_path}/prompts.txt", "--json", "--max-tokens=20")
    assert len(rows(out)) == 70 and " of 70 replies, " in err and "tokens/s" in err


def test_problems_are_asked_in_the_conversation(run, chatty, tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text('{"question": "2+2?", "answer": "#### 4"}\n')
    flags = f"--data=gsm8k={path}", "--json", "--max-tokens=5"
    (zero,), (chat,) = rows(run(*flags)[0]), rows(run(*flags, model=chatty)[0])
    assert zero["id"] == chat["id"] == "gsm8k/1"
    assert zero["prompt"].startswith("A conversation between User") and zero["completion"]
    assert chat["prompt"] == "<s>user: 2+2?\nassistant: <think>"
    assert chat["completion"].startswith("<think>") and not chat["thinking"].startswith("<think>")
    assert (zero["conversation"], chat["conversation"]) == ("r1_zero", "chat")


def test_the_embedded_model_goes_by_its_name(run):
    out, _ = run("--prompt=use 9 5 4 2 to make 8", "--json", "--max-tokens=9", model="embedded")
    (row,) = rows(out)
    assert row["prompt"] == "use 9 5 4 2 to make 8 <think>" and row["conversation"] == "embedded"
    assert row["completion"].startswith("<think> 9 ")
