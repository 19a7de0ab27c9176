"""Generation, fine-tuning and RL show a model the same prompt, and read its reply the same."""

import json
import shutil

import pytest

from experiments import generate, sft
from r1jax.data.documents import read_documents
from r1jax.data.tasks import make_task
from r1jax.models import from_model, open_model
from r1jax.presets import RUNS

QUESTION, REPLY = "2+3?", "<think>\nadd\n</think>\n\n<answer>5</answer>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: OPENING{% endif %}"
)
ZERO = "User: 2+3? Assistant:"


@pytest.mark.parametrize(
    "opening, flags, end",
    [
        ("<think>\n", [], "<s>user: 2+3?\nassistant: <think>\n"),
        ("", [], "<s>user: 2+3?\nassistant: "),
        (None, ["--conversation=r1_zero"], ZERO),
        ("<think>\n", ["--conversation=r1_zero"], ZERO),
        ("<think>\n", ["--conversation=plain"], "2+3?"),
    ],
)
def test_the_same_prompt_in_all_three(data_dir, tmp_path, opening, flags, end):
    """As its text is decoded from what the model reads, printed for whoever runs this with -s."""
    folder, rows = tmp_path / "hf", tmp_path / "rows.jsonl"
    shutil.copytree(data_dir / "stories260k" / "hf", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    if opening is not None:
        template = TEMPLATE.replace("OPENING", opening)
        (folder / "chat_template.jinja").write_text(template)
    row = {"id": 1, "kind": "math", "prompt": QUESTION, "answer": "5", "completion": REPLY}
    other = row | {"id": 2, "prompt": f"{QUESTION} {QUESTION}"}  # one of the two is held out
    rows.write_text("".join(json.dumps(r) + "\n" for r in (row, other)))

    asked = generate.asked_for(
        generate.GenerateConfig(prompts=str(rows)),
        open_model(folder).conversation(*[flag.partition("=")[2] for flag in flags]),
    )[0]
    cfg = sft.starting_config([f"--model={folder}"])
    cfg = sft.cli.parse(type(cfg), cfg, [f"--data={rows}", *flags], "")
    conversation = open_model(cfg.base).conversation(cfg.conversation)
    prompt, trained = read_documents(cfg, conversation)[0]
    run = from_model(RUNS["small"](), str(folder), resumes=False)
    run = sft.cli.parse(type(run), run, ["--task=problems", f"--data={rows}", *flags], "")
    task = make_task(run)
    problem = next(p for p in (*task.train, *task.heldout) if p.prompt == QUESTION)

    tokenizer = conversation.tokenizer
    ids = {
        "generate": tokenizer.encode_prompt(asked.prompt),
        "sft": prompt,
        "rl": task.prompt(problem),
    }
    texts = {name: tokenizer.decode(tokens) for name, tokens in ids.items()}
    print("\n".join(f"{name:9}{text!r}" for name, text in texts.items()))
    assert asked.prompt.endswith(end)
    assert ids["generate"] == ids["sft"] == ids["rl"]
    # What was trained reads in RL as the whole reply, whichever of the two opened the thought.
    assert task.text(trained).strip() == REPLY
