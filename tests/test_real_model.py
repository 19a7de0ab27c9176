"""RL and SFT on a real pre-trained model, stories260K, and what comes out of them."""

import json
import shutil

import jax
import llama
import numpy as np
import pytest
import tiny_run
from test_bad_input import error_of  # noqa: F401

from experiments import export, generate, r1_zero, sft
from r1jax import hub
from r1jax.config import RunConfig
from r1jax.config_file import load_config
from r1jax.data.conversation import document
from r1jax.data.tokenizer import Tokenizer
from r1jax.metrics import read_jsonl
from r1jax.models import open_model
from r1jax.sharding import make_mesh

SMALL = (
    "--evaluate-samples=8", "--final-samples=16", "--sampling.slots=32", "--sampling.refill=32",
    "--sampling.max-tokens=48", "--rl.questions=4", "--rl.group=8", "--rl.minibatches=1",
    "--model.scan-layers",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(data_dir):
    return data_dir / "stories260k" / "hf"


def rl(folder, out, *flags):
    r1_zero.main([f"--model={folder}", f"--out={out}", *SMALL, *flags])
    return out


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory):
    """Two steps of GRPO on eight devices."""
    path = tmp_path_factory.mktemp("rl") / "run"
    return rl(folder, path, "--steps=2", "--checkpoint-every=1", "--mesh=2x4")


def test_it_starts_from_the_model_in_the_directory(out, folder):
    cfg = load_config(RunConfig, out / "config.json")
    assert cfg.base == cfg.tokenizer == str(folder) and cfg.task == "stories"
    assert (cfg.model.vocab, cfg.model.layers, cfg.model.context) == (512, 5, 512)
    first = read_jsonl(out / "metrics.jsonl")[0]
    assert first["reward/mean"] > 0 and first["sampler/logp_diff"] < 1e-4
    # The mean cross-entropy of this model's own samples: llama2.c reports 1.30 on real stories.
    assert 0.9 < first["entropy"] < 1.8
    samples = read_jsonl(out / "samples.jsonl")
    assert all(row["prompt"].startswith("<s> Once upon a time, there was a ") for row in samples)
    # A story that was cut is graded all the same.
    assert any(row["truncated"] and row["components"]["partial"] > 0 for row in samples)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_end(out, folder, tmp_path):
    """And refuses to go on from another model."""
    stopped = tmp_path / "run"

    shutil.copytree(out, stopped)
    shutil.rmtree(stopped / "checkpoints" / "2")
    r1_zero.main(["--resume", f"--out={stopped}", f"--model={folder}"])
    assert tiny_run.metrics(stopped) == tiny_run.metrics(out)


@pytest.fixture(scope="module")
def exported(out, tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "hf"
    export.main([f"--run={out}", f"--out={target}", "--dtype=float32"])
    return target


def test_the_export_is_the_checkpoint_and_not_the_base(out, exported, folder):
    mesh, model = make_mesh("1"), hub.read_config(exported)
    got = hub.load_weights(exported, model, mesh)
    want = open_model(out).weights(load_config(RunConfig, out / "config.json").model, mesh)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    base = hub.load_weights(folder, model, mesh)
    assert not np.array_equal(got.params.embed_VD, base.params.embed_VD)


PROMPT = "Once upon a time, there was a cat, a boat and a hat."


def greedy_row(model, capfd):
    capfd.readouterr()
    generate.main([f"--model={model}", f"--prompt={PROMPT}", "--temperature=0", "--json",
                   "--max-tokens=40"])  # fmt: skip
    return json.loads(capfd.readouterr().out)


def test_the_run_and_its_export_write_the_same_text(out, exported, folder, capfd):
    """That of the oracle in NumPy."""
    tokenizer = Tokenizer.load(exported)
    ids = tokenizer.encode_prompt(PROMPT)
    reply = llama.greedy(exported, ids, 40, tokenizer.end_ids)
    row = greedy_row(exported, capfd)
    assert row == greedy_row(out, capfd)
    assert PROMPT + row["text"] == tokenizer.decode([*ids, *reply], skip_special_tokens=True)


def test_transformers_go_on_with_the_same_text(exported, capfd):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    whole = model.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=[1, 2])
    text = tokenizer.decode(whole[0], skip_special_tokens=True)
    assert text == PROMPT + greedy_row(exported, capfd)["text"]


@pytest.mark.slow
def test_grpo_raises_the_reward_from_its_real_base_rate(folder, tmp_path):
    rl(folder, tmp_path / "run", "--steps=12", "--rl.questions=16", "--sampling.slots=128",
       "--final-samples=256")  # fmt: skip
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    before, after = rows[0]["heldout/reward"], rows[-1]["heldout/reward"]
    assert 0.1 < before < 0.4 and after > before + 0.3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Facts that the model cannot know."""
    path = tmp_path_factory.mktemp("data") / "facts.jsonl"
    facts = [(name, thing) for name in ("Max", "Mia", "Sam", "Zoe") for thing in ("bike", "boat")]
    rows = [
        {"prompt": f"What has {name}?", "completion": f" {name} has a {thing}. It is very red."}
        for name, thing in facts
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 8))
    return path


def tune(folder, data, out, *flags):
    sft.main([f"--model={folder}", f"--data={data}", f"--out={out}", "--length=96", "--epochs=3",
              "--checkpoint-every=2", "--optim.lr=2e-3", *flags])  # fmt: skip
    return out


def losses(out):
    return [row["nll"] for row in read_jsonl(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def tuned(folder, data, tmp_path_factory):
    folder_out = tmp_path_factory.mktemp("sft")
    return tune(folder, data, folder_out / "run", f"--export={folder_out / 'hf'}")


def test_fine_tuning_lowers_the_loss_and_teaches_what_it_says(tuned, capfd):
    values = losses(tuned)
    assert values[0] > 2 and values[-1] < 0.5 * values[0]
    capfd.readouterr()
    generate.main([f"--model={tuned.parent / 'hf'}", "--prompt=What has Zoe?", "--json",
                   "--temperature=0", "--max-tokens=40"])  # fmt: skip
    row = json.loads(capfd.readouterr().out)
    assert row["finish_reason"] == "stop" and row["text"].startswith(" Zoe has a ")


@pytest.mark.slow
def test_fine_tuning_on_a_mesh_is_that_of_one_device(tuned, folder, data, tmp_path):
    other = tune(folder, data, tmp_path / "run", "--mesh=2x4")
    np.testing.assert_allclose(losses(other), losses(tuned), rtol=2e-3)


def test_fine_tuning_resumes_exactly(tuned, tmp_path):

    stopped = tmp_path / "run"
    shutil.copytree(tuned, stopped)
    newest = max(int(p.name) for p in (stopped / "checkpoints").iterdir())
    shutil.rmtree(stopped / "checkpoints" / str(newest))
    sft.main(["--resume", f"--out={stopped}"])
    assert losses(stopped) == losses(tuned)
    ours, theirs = (
        open_model(run).weights(open_model(run).config, make_mesh("1")) for run in (stopped, tuned)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_documents_are_those_that_generation_would_draw(folder):
    """Prompt and completion are one text: no blank comes between them that was not there."""
    tokenizer = Tokenizer.load(folder)
    prompt, reply = document(tokenizer, "Once upon a time", ", there was a cat.")
    assert [*prompt, *reply[:-1]] == tokenizer.encode_prompt("Once upon a time, there was a cat.")
    assert prompt == tokenizer.encode_prompt("Once upon a time") and reply[-1] == 2


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--data=FILE is needed"),
        (["--data=/absent.jsonl"], "/absent.jsonl"),
        (["--model=/absent"], "/absent: no such directory"),
        (["--data={data}", "--length=8"], "documents are longer than a row of 8 tokens"),
        (["--data={data}", "--mesh=8", "--rows=4"], "4 rows an update do not divide over 8"),
        (["--data={bad}"], 'bad.jsonl:1: missing field "completion"'),
    ],
)
def test_bad_input_of_fine_tuning(error_of, folder, data, tmp_path, flags, message):  # noqa: F811
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n')
    flags = [flag.format(data=data, bad=tmp_path / "bad.jsonl") for flag in flags]
    given = [] if flags and flags[0].startswith("--model") else [f"--model={folder}"]
    assert message in error_of(*given, f"--out={tmp_path}/run", *flags, main=sft.main)


def test_bad_input_of_rl_and_export(error_of, out, folder, tmp_path):  # noqa: F811
    assert "--model=/absent" in error_of("--model=/absent", "--resume", f"--out={out}")
    assert "/absent: no such directory" in error_of("--model=/absent")
    flags = f"--model={folder}", "--task=stories", "--data=x.jsonl", f"--out={tmp_path}/run"
    assert "--task=stories has its own problems" in error_of(*flags)
    assert "--task=stories needs --tokenizer=FILE, or --model=DIR" in error_of("--task=stories")
    none = "config.json"
    for run, lacks in (folder, "checkpoints"), (tmp_path, none), ("/absent", none):
        error = error_of(f"--run={run}", f"--out={tmp_path}/hf", main=export.main)
        assert f"--run={run} is not a run's folder: it has no {lacks}" in error
