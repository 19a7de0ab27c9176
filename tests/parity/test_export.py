"""A run of the embedded model, exported, in Transformers' own hands: needs the parity extra."""

import json

import pytest
import tiny_run

from experiments import export, generate

pytest.importorskip("torch", reason="torch absent: pip install -e '.[parity]'")
transformers = pytest.importorskip(
    "transformers", reason="transformers absent: pip install -e '.[parity]'"
)


def test_transformers_asks_answers_and_ends_as_the_run_does(tmp_path, capsys, monkeypatch):
    # Of words that any of several may follow, noise would choose, and the reply might not end.
    monkeypatch.setattr(
        tiny_run, "FOLLOWS", {word: after[-1:] for word, after in tiny_run.FOLLOWS.items()}
    )
    run = tiny_run.run(tiny_run.inputs(tmp_path), tmp_path / "run", "--steps=1")
    folder = tmp_path / "hf"
    export.main([f"--run={run}", f"--out={folder}", "--dtype=float32"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    # Its grouped products want experts of a multiple of four numbers.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, experts_implementation="eager"
    )
    question = "use 1 1 1 1 to make 2"
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    # Twice as many as the reply takes, so that it ends by itself.
    said = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :].tolist()
    capsys.readouterr()
    generate.main(
        [f"--model={run}", f"--prompt={question}", "--temperature=0", "--max-tokens=16", "--json"]
    )
    ours = json.loads(capsys.readouterr().out)
    assert prompt.split() == ours["prompt"].split()
    assert len(said) == ours["tokens"] < 16 and said[-1] == tokenizer.eos_token_id
    assert ["<think>", *tokenizer.decode(said[:-1]).split()] == ours["completion"].split()
