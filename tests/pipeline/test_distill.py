"""`python -m experiments.distill`: from a teacher, or from rows, to a student's directory."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from test_bad_input import error_of  # noqa: F401

import r1jax
from experiments import distill, evaluate
from r1jax import hub
from r1jax.checks import InputError
from r1jax.config import SFTConfig
from r1jax.config_file import load_config
from r1jax.data.countdown import split
from r1jax.metrics import read_jsonl
from r1jax.models import open_model
from r1jax.pipeline import rejection
from r1jax.presets import DISTILLED, DISTILLED_SOURCES, UNREPORTED
from r1jax.published import MODELS
from r1jax.sharding import make_mesh

QUICK = ("--sft.base=random", "--sft.steps=2", "--sft.rows=2", "--sft.length=128",
         "--export-dtype=float32")  # fmt: skip
DRAW = ("--draw.limit=6", "--draw.k=4", "--draw.max-tokens=64", "--draw.workers=1")


def rows(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """The shipped base into a student that knows nothing, in two updates."""
    out = tmp_path_factory.mktemp("distilled") / "out"
    distill.main(["--teacher=embedded", f"--out={out}", *DRAW, *QUICK])
    return out


def arrays(folder):
    source = open_model(folder)
    return jax.device_get(jax.tree.leaves(source.weights(source.config, make_mesh("1"))))


def test_a_teacher_and_a_student(distilled):
    kept = rows(distilled / "traces" / "kept.jsonl")
    problems = {p.id for p in split(4)[0]}
    assert kept and all(row["model"] == "embedded" and row["id"] in problems for row in kept)
    cfg = load_config(SFTConfig, distilled / "student" / "config.json")
    assert cfg.data == str(distilled / "traces" / "kept.jsonl") and cfg.base == "random"
    assert len(read_jsonl(distilled / "student" / "metrics.jsonl")) == 2
    published = json.loads((distilled / "model" / "config.json").read_text())
    assert published["architectures"] == ["Qwen2ForCausalLM"]
    for a, b in zip(arrays(distilled / "student"), arrays(distilled / "model"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_asked_again_it_has_nothing_to_do_and_a_longer_run_makes_another_model(
    distilled, monkeypatch, capsys
):
    before = {p.name: p.read_bytes() for p in (distilled / "model").iterdir()}
    stamp = (distilled / "model").stat().st_ctime_ns
    monkeypatch.setattr(rejection.Work, "_draw", None)
    distill.main(["--teacher=embedded", f"--out={distilled}", *DRAW, *QUICK])
    assert "24 of 24 replies are there" in capsys.readouterr().out
    assert (distilled / "model").stat().st_ctime_ns == stamp
    distill.main(["--teacher=embedded", f"--out={distilled}", *DRAW, *QUICK, "--sft.steps=3"])
    after = {p.name: p.read_bytes() for p in (distilled / "model").iterdir()}
    assert after.keys() == before.keys()
    assert after["model.safetensors"] != before["model.safetensors"]


def test_rows_that_are_too_long_are_left_out_and_counted(distilled, tmp_path, capsys):
    traces = tmp_path / "traces.jsonl"
    short = rows(distilled / "traces" / "kept.jsonl")[0]
    long = short | {"completion": short["completion"].replace("<think>", "<think>" + " wait" * 99)}
    traces.write_text("".join(json.dumps(row) + "\n" for row in (short, long)))
    distill.main([f"--traces={traces}", f"--out={tmp_path / 'out'}", *QUICK, "--sft.steps=1"])
    said = capsys.readouterr()
    assert "1 of 2 documents are longer than a row of 128 tokens" in said.err
    assert "left out" in said.err and "1 documents" in said.out


def test_adapters_are_trained_where_they_are_asked_for(distilled, tmp_path):
    """And the student's directory has them merged."""
    traces = distilled / "traces" / "kept.jsonl"
    flags = (f"--traces={traces}", "--student=embedded", "--sft.steps=1", "--sft.length=128",
             "--sft.lora.rank=2", "--export-dtype=float32")  # fmt: skip
    distill.main([f"--out={tmp_path}", *flags])
    cfg = load_config(SFTConfig, tmp_path / "student" / "config.json")
    assert cfg.model.lora is not None and cfg.model.lora.rank == 2
    mesh, models = make_mesh("1"), map(open_model, ("embedded", tmp_path / "model"))
    old, new = (model.weights(model.config, mesh).params for model in models)
    np.testing.assert_array_equal(old.embed_VD, new.embed_VD)
    assert np.any(old.moe.attention.out_HUD != new.moe.attention.out_HUD)


def test_bad_input_is_one_line(distilled, tmp_path, error_of, data_dir):  # noqa: F811
    traces = f"--traces={distilled / 'traces' / 'kept.jsonl'}"
    stories = data_dir / "stories260k" / "hf"

    def error(*flags):
        return error_of(f"--out={tmp_path / 'out'}", *flags, main=distill.main)

    assert "--teacher=DIR or --traces=FILE is needed" in error()
    assert "and not both" in error("--teacher=embedded", traces)
    assert "problems are for a --teacher" in error(traces, "--data=a.jsonl")
    assert "--preset=large: expected one of tiny, paper, qwen_1_5b" in error(
        traces, "--preset=large"
    )
    assert "--student=DIR is needed" in error(traces, "--preset=paper")
    assert "nowhere: no such directory" in error(traces, "--student=nowhere")
    assert "no such directory" in error("--teacher=nowhere")
    assert "nowhere.jsonl: No such file" in error("--traces=nowhere.jsonl")
    forms = "of the conversation embedded (the embedded model's words), and the model that is to"
    assert f"--teacher=embedded: {forms} learn it is asked by plain" in error(
        "--teacher=embedded", f"--student={stories}"
    )
    found = error(traces, f"--student={stories}")
    assert f"kept.jsonl:1: the reply: {forms}" in found and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, base, lr",
    [
        ("qwen_1_5b", "Qwen/Qwen2.5-Math-1.5B", 1e-4),
        ("qwen_7b", "Qwen/Qwen2.5-Math-7B", 8e-5),
        ("qwen_14b", "Qwen/Qwen2.5-14B", 7e-5),
        ("qwen_32b", "Qwen/Qwen2.5-32B", 6e-5),
        ("llama_8b", "meta-llama/Llama-3.1-8B", 5e-5),
        ("llama_70b", "meta-llama/Llama-3.3-70B-Instruct", 2e-5),
    ],
)
def test_published_numbers(name, base, lr):
    cfg = DISTILLED[name]()
    assert (cfg.base, cfg.optim.lr, cfg.rows, cfg.length) == (base, lr, 64, 32_768)
    assert (cfg.optim.schedule, cfg.optim.final, cfg.long_documents) == ("cosine", 0.1, "drop")
    assert 2 <= cfg.epochs <= 3 and hub.is_hub_id(cfg.base)
    family, size = name.split("_", 1)
    assert cfg.model == MODELS[f"deepseek-r1-distill-{family}-{size.replace('_', '.')}"]()


@pytest.mark.parametrize("name", DISTILLED_SOURCES)
def test_every_number_has_a_source_or_is_marked_unreported(name):
    cfg, sources = DISTILLED[name](), DISTILLED_SOURCES[name]
    # MTP: a student has none.
    ours = {"optim.schedule", "optim.steps", "optim.mtp_weight", "optim.moments"}
    for f in dataclasses.fields(cfg.optim):
        assert (f"optim.{f.name}" in sources) or f"optim.{f.name}" in ours, f.name
    assert {"model", "base", "epochs", "rows", "length", "long_documents"} <= sources.keys()
    assert sources["optim.warmup"] == UNREPORTED
    if name == "qwen3_8b_0528":
        assert sources["optim.lr"] == sources["epochs"] == UNREPORTED


# A real model as one of the two.


@pytest.fixture(scope="module")
def stories(data_dir):
    return data_dir / "stories260k" / "hf"


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_real_student_learns_traces(stories, tmp_path, ending):
    """stories260K, of which a rhyme was never heard: it says it by heart afterwards."""
    text = "Tom and the cat sat on a mat. The cat said: I am fat."
    rhymes = [{"prompt": f"Once there were {n} cats.", "completion": f" {text}"} for n in range(9)]
    traces = tmp_path / f"traces.{ending}"
    if ending == "jsonl":
        traces.write_text("".join(json.dumps(row) + "\n" for row in rhymes))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            pyarrow.Table.from_pylist(rhymes), traces
        )
    out = tmp_path / "out"
    flags = ["--sft.rows=2", "--sft.length=256", "--sft.steps=60", "--sft.optim.lr=1e-3"]
    distill.main([f"--traces={traces}", f"--student={stories}", f"--out={out}", *flags])
    losses = [row["nll"] for row in read_jsonl(out / "student" / "metrics.jsonl")]
    assert losses[-1] < 0.3 < 1.5 < losses[0]
    said = r1jax.open_model(out / "model").generate(
        ["Once there were 4 cats."], temperature=0, max_tokens=40
    )
    assert said[0].strip().startswith("Tom and the cat sat on a mat.")


@pytest.mark.slow
def test_a_real_teacher(stories, tmp_path):
    """stories260K, asked for stories with a word in them, into a small student of its vocabulary
    that knows nothing: what is kept uses the word, and the student learns to write such texts."""
    problems = tmp_path / "problems.jsonl"
    text = "Once upon a time, there was a {} with a {}."
    problems.write_text("".join(
        json.dumps({"id": f"{who}-{word}", "kind": "words", "prompt": text.format(who, word),
                    "answer": word}) + "\n"
        for who in ("girl", "boy", "cat") for word in ("bird", "dog", "toy", "mom")
    ))  # fmt: skip
    out = tmp_path / "out"
    flags = ["--draw.conversation=plain", "--draw.k=8", "--draw.max-tokens=250", "--draw.keep=0",
             "--sft.base=random", f"--sft.tokenizer={stories}", "--sft.model.vocab=512",
             "--sft.conversation=plain", "--sft.steps=60", "--sft.rows=4"]  # fmt: skip
    distill.main([f"--teacher={stories}", f"--data={problems}", f"--out={out}", *flags])
    kept = rows(out / "traces" / "kept.jsonl")
    assert len(kept) > 12
    for row in kept:
        assert row["id"].partition("-")[2] in row["completion"].lower()
    assert {row["model"] for row in kept} == {str(stories)}
    losses = [row["nll"] for row in read_jsonl(out / "student" / "metrics.jsonl")]
    assert losses[0] > 5 and losses[-1] < 3.5  # of ln 512 = 6.2


@pytest.mark.slow
def test_a_distilled_student_is_evaluated_as_any_model(distilled, tmp_path):
    evaluate.main([f"--model={distilled / 'student'}", f"--out={tmp_path}", "--limit=4", "--k=2",
                   "--max-tokens=40"])  # fmt: skip
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["benchmarks"]["countdown"]["questions"] == 4


def test_a_student_learns_from_one_file_of_rows(distilled, tmp_path):
    """In its folder another one, or the same one changed, is refused; another type is written."""
    kept = (distilled / "traces" / "kept.jsonl").read_text("utf-8").splitlines(keepends=True)
    traces, out = tmp_path / "mine.jsonl", tmp_path / "out"
    traces.write_text("".join(kept))
    flags = (f"--traces={traces}", f"--out={out}", *QUICK)
    distill.main([*flags])
    distill.main([*flags, "--export-dtype=bfloat16"])
    assert json.loads((out / "model" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    traces.write_text("".join(kept[1:]))
    with pytest.raises(InputError, match="holds a student with rows="):
        distill.main([*flags])
    with pytest.raises(InputError, match="--draw: nothing is drawn for --traces"):
        distill.main([*flags, "--draw.k=9"])
    with pytest.raises(InputError, match=r"--sft\.data: with --teacher"):
        distill.main(["--teacher=embedded", f"--out={out}", f"--sft.data={traces}"])
