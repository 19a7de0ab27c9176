"""`python -m launch.plan`: what it refuses, what it says of a run's own programs on emulated
devices, and that both kinds of compilers make them."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small

from launch import plan
from launch.planning import formula, jobs, report, sweep
from launch.planning.chips import CHIPS, Topology
from r1jax.checks import InputError
from r1jax.config import RLConfig, RunConfig, SamplingConfig
from r1jax.sampling.slots import WINDOW
from r1jax.sharding import make_mesh

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "args, said",
    [
        (["--topology=v9:2x2"], "no chip 'v9'"),
        (["--job=rl"], "--job=rl: expected one of grpo, sft, sample, prefill"),
        (["--tokens=0"], "--tokens=0: expected a number"),
        (["--rows=many"], "--rows=many: expected a number"),
        (["--price=2"], "--price: of an iteration, which --lengths asks for"),
        (["--lengths=100", "--price=x"], "--price=x: expected a finite number"),
        (["--lengths=100", "--job=sft"], "not of --job=sft"),
        (["--lengths=1e9"], "a mean above 0 and of at most 176 tokens"),
        (["--lengths=0"], "a mean above 0"),
        (["--lengths=100", "--price=-2"], "--price=-2: expected a finite number"),
        (["--tokenss=3"], "did you mean --tokens?"),
        (["--model=deepseek-v33"], "no published model: did you mean deepseek-v3?"),
    ],
)
def test_bad_input_is_one_line(args, said):
    with pytest.raises(InputError) as error:
        plan.understood(list(args))
    assert said in str(error.value)


def test_a_table_of_plans_none_of_which_compiles_is_a_failure(monkeypatch, capsys):
    def refused(*_):
        raise InputError("the compiler refuses it: " + 50 * "HLO ")

    monkeypatch.setattr(plan, "compiled", refused)
    with pytest.raises(InputError, match="none of these plans compiles"):
        plan.main(["--topology=v5e:2x2,v5e:2x4", "--job=sft", "--preset=tiny"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 and all("the compiler refuses it" in r and len(r) < 250 for r in rows)


def test_rows_that_are_no_whole_groups_are_refused():
    asked = plan.understood(["--topology=v5e:2x2", "--rows=12"])
    assert plan.of_mesh(plan.understood(["--topology=v5e:2x2"]), "", 1).mesh == "1x4"
    with pytest.raises(InputError, match=r"--rows=12: 2 updates .* --rl.group=16"):
        plan.of_mesh(asked, "4x1", 1)


def test_adapters_are_planned_beside_four_bits():
    """What lies on a device: the bytes of each array, of int4 half a byte a number."""
    name = "--model=deepseek-r1-distill-qwen-1.5b"
    lora = ["--lora.rank=16", "--lora.weights=int4", "--model.layers=1", "--model.dense-layers=1"]
    cfg = plan.understood([name, "--topology=v5e:1x1", "--tokens=64", *lora]).cfg
    made = jobs.program("grpo", dataclasses.replace(cfg, mesh="1"), make_mesh("1"), None, 0)
    d, kv, ffn, vocab = 1536, 256, 8960, 151936
    matrices = 2 * d * d + 2 * d * kv + 3 * d * ffn
    adapters = 16 * (2 * 2 * d + 2 * (d + kv) + 3 * (d + ffn))
    scales = 2 * matrices / 128 + 4 * 2 * vocab  # of groups; of rows and columns of int8
    rest = 2 * (3 * d + d + 2 * kv)  # norms and biases
    held = matrices / 2 + 2 * vocab * d + scales + rest + 4 * adapters
    assert made.holds["parameters"] == held
    assert made.holds["moments"] == pytest.approx(2 * 4 * adapters, abs=16)  # and a count


def config(**changes) -> RunConfig:
    model = small.config(layers=2, dense_layers=2, scan_layers=True, **changes)
    return RunConfig(
        model=model,
        mesh="2x4",
        sampling=SamplingConfig(max_prompt=4, max_tokens=12, slots=16, refill=8),
        rl=RLConfig(questions=8, group=4, minibatches=2, rows=8),
    )


def planned(job, cfg, **more):
    """On eight emulated devices, with the figures of a v5e."""
    mesh = make_mesh(cfg.mesh)
    where = Topology("v5e:2x4", "v5e", CHIPS["v5e"], (2, 4), 8)
    program = jobs.program(job, cfg, mesh, where, more.get("rows", 0))
    return program, report.plan(program, cfg, where)


def test_an_update_multiplies_four_forward_passes():
    """Policy, reference, and twice as much backward, of all updates and micro-batches; scores are
    whole squares. Micro-batches are 8 rows, of 16 that an update has."""
    cfg = config()
    program, found = planned("grpo", cfg)
    tokens, length = 8 * 4 * 16, 16
    forward = formula.forward(cfg.model, tokens, length)
    assert program.flops == 4 * forward and program.turns == 2
    square = tokens * formula.attention(cfg.model, length / 2)
    # The head's gradient is of its own part of the vocabulary; nothing is computed twice.
    assert found.compiled * 8 == pytest.approx(4 * (forward + square), rel=0.02)
    assert found.holds.keys() == {"parameters", "moments", "reference", "batch"}
    assert found.fits and found.peak >= sum(found.holds.values())
    assert found.time.best > 0 and found.sent
    text = report.table(found)
    assert all(line == line.rstrip() for line in text.splitlines()) and "fits" in text
    json.dumps(report.as_json(found))


def test_a_decoding_step_multiplies_one_token_a_slot():
    cfg = config()
    program, found = planned("sample", cfg)
    assert program.tokens == 16 * WINDOW
    wanted = WINDOW * formula.decode(cfg.model, 16, 16)
    assert found.compiled * 8 == pytest.approx(wanted, rel=0.02)
    cache = 2 * 16 * 16 * (8 + 4) * 4  # layers, slots, positions, latent and rotary key, float32
    assert found.holds["cache"] == cache / 8


def test_supervised_rows_must_divide():
    with pytest.raises(InputError, match="--rows=12: rows an update do not divide over 8 devices"):
        planned("sft", config(), rows=12)


def test_rows_fewer_than_devices_are_said_to_be_padding():
    cfg = config()
    few = RLConfig(questions=2, group=4, minibatches=2)
    (note,) = jobs._idle(
        jobs.layout_of(cfg.__class__(**{**vars(cfg), "rl": few}), 8),
        cfg.__class__(**{**vars(cfg), "rl": few}),
        make_mesh("2x4"),
    )
    assert note.startswith(
        "4 rows an update are computed as 8, since --mesh splits them over 8: 50%"
    )


def test_a_sweep_tries_what_divides_and_stops_where_memory_ends():
    cfg = config()
    assert sweep.meshes(cfg, 8) == ["8x1", "4x2", "2x4", "1x8"]
    assert sweep.splits(cfg, 8, "grpo") == [1, 2] and sweep.splits(cfg, 8, "sft") == [1]
    long = dataclasses.replace(cfg, sampling=SamplingConfig(max_prompt=1, max_tokens=32_767))
    split = [f"fsdp={a},expert={b},context={c}" for a, b, c in [(2, 1, 2), (1, 2, 2), (1, 1, 4)]]
    assert sweep.meshes(long, 4) == ["4x1", "2x2", "1x4", *split]
    moe = plan.understood(["--topology=v5e:4x4"]).cfg
    assert sweep.meshes(moe, 16) == ["16x1", "8x2", "4x4", "2x8"]  # of 8 experts

    def one(mesh, per_device):
        _, found = planned("grpo", config())
        return report.dataclasses.replace(found, mesh=mesh, fits=per_device == 1)

    where = Topology("v5e:2x4", "v5e", CHIPS["v5e"], (2, 4), 8)
    tried = list(sweep.tries(cfg, where, "grpo", one, "2x4"))
    assert [(t.per_device, t.report.fits) for t in tried] == [(1, True), (2, False)]
    assert min(tried, key=lambda t: t.rank) is tried[0]


def run(*args, timeout=300):
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "launch.plan", *args],
        env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


TPU = ["--topology=v5e:2x2", "--mesh=2x2"]
TINY = ["--model.scan-layers", "--model.experts-multiply=grouped", "--model.layers=2"]


def test_it_compiles_for_tpus():
    """Reading prompts here, since a forward pass is compiled soonest."""
    pytest.importorskip("libtpu")
    out, error = run(*TPU, *TINY, "--job=prefill", "--json").communicate(timeout=300)
    found = json.loads(out.splitlines()[-1]) if out else error
    assert found["fits"] and found["compiled"] > found["formula"] > 0, error
    assert any(k["name"] == "route" for k in found["kernels"])
    assert error == ""  # libtpu looked for nothing


@pytest.mark.slow
def test_supervised_updates_compile_for_tpus():
    pytest.importorskip("libtpu")
    sft = ["--job=sft", "--tokens=64", "--rows=4", "--json"]
    out, error = run(*TPU, *TINY, *sft).communicate(timeout=600)
    found = json.loads(out.splitlines()[-1]) if out else error
    held = found["holds"]
    assert held["moments"] == pytest.approx(2 * held["parameters"], rel=0.01), error


@pytest.mark.slow
def test_two_plans_at_once_and_one_too_large():
    pytest.importorskip("libtpu")
    grpo = ["--topology=v5e:2x2", "--mesh=2x2", *TINY, "--lengths=60", "--price=1", "--json"]
    large = [
        "--topology=v5e:2x2", "--model=deepseek-r1-distill-qwen-7b", "--job=sft", "--tokens=4096",
        "--rows=4",
    ]  # fmt: skip
    both = [run(*grpo), run(*large)]
    (out, error), (said, _) = (one.communicate(timeout=900) for one in both)
    found = json.loads(out.splitlines()[-1]) if out else error
    assert found["iteration"]["tokens"] > 0 and found["parts"]["decode"]["fits"], error
    (verdict,) = [line for line in said.splitlines() if "out of memory" in line]
    assert "largest: " in verdict and "would help: " in verdict


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["h100:8", "b200:8"])
def test_it_compiles_for_gpus(topology):
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        pytest.skip("no CUDA plugin to compile with: pip install -e '.[aot-cuda]'")
    out, error = run(f"--topology={topology}", "--mesh=2x4", *TINY, "--json").communicate(
        timeout=900
    )
    found = json.loads(out.splitlines()[-1]) if out else error
    assert found["fits"] and found["compiled"] > 0 and found["sent"], error
