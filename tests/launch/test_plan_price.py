"""Chips, prices and messages of `launch.plan`: arithmetic that needs no compiler."""

from dataclasses import replace

import numpy as np
import pytest
import small

from launch import plan
from launch.planning import many, price
from launch.planning.chips import CHIPS, GIB, topology
from launch.planning.movement import Sent
from launch.planning.products import Product
from launch.planning.report import Report, label
from launch.planning.roofline import Roofline, roofline
from launch.planning.targets import out_of_memory
from r1jax.checks import InputError
from r1jax.config import RLConfig, RunConfig, SamplingConfig
from r1jax.rl.types import Layout
from r1jax.sampling.slots import WINDOW


@pytest.mark.parametrize(
    "text, shape, devices",
    [
        ("v5p:8x8x16", (8, 8, 16), 1024),
        ("v5e:2x4", (2, 4), 8),
        ("tpu7x:2x2x1", (2, 2, 1), 8),  # two devices a chip
        ("h100:8", (1, 8), 8),
        ("h100:16x8", (16, 8), 128),
        ("b200:8", (1, 8), 8),
    ],
)
def test_topologies(text, shape, devices):
    found = topology(text)
    assert (found.shape, found.devices) == (shape, devices)


@pytest.mark.parametrize(
    "text, said",
    [
        ("v5", "no chip 'v5'"),
        ("h1000:8", "did you mean h100"),
        ("v5p", "expected v5p:4x4x4"),
        ("v5p:2x2", "a v5p slice has 3 axes"),
        ("v5e:0x4", "expected v5e:2x4"),
        ("v5e:2x4x4", "a v5e slice has 2 axes"),
        ("h100:16", "a host has at most 8 GPUs"),
        ("h100:2x2x2", "HOSTSxGPUS"),
    ],
)
def test_topologies_that_are_none(text, said):
    with pytest.raises(InputError) as error:
        topology(text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_lengths_have_the_mean_that_was_asked_for_and_are_cut():
    drawn = price.lengths("800:0.5", 32_768, 20_000)
    assert np.mean(drawn) == pytest.approx(800, rel=0.01)
    assert np.std(np.log(drawn)) == pytest.approx(0.5, rel=0.01)
    assert max(price.lengths("800:1", 1000, 500)) == 1000
    assert price.lengths("7:0", 10, 3) == [7, 7, 7]


@pytest.mark.parametrize("text", ["", "a", "0", "-3", "20", "5:-1", "5:x", "nan", "5:inf"])
def test_lengths_that_are_none(text):
    with pytest.raises(InputError, match="--lengths="):
        price.lengths(text, 10, 4)


def test_steps_are_those_of_slots_that_are_filled_again():
    rng = np.random.default_rng(0)
    for slots in (1, 3, 8, 50):
        replies = rng.integers(1, 40, 30).tolist()
        left, running, steps = list(replies), [], 0
        while left or running:  # step by step, as the engine does
            while left and len(running) < slots:
                running.append(left.pop(0))
            running = [n - 1 for n in running if n > 1]
            steps += 1
        assert price.steps_of(replies, slots) == steps


def test_an_iteration_is_the_sum_of_its_parts():
    """Two updates of four replies. A micro-batch is two rows of 20 tokens, which hold two replies
    of 8 with their prompts of 2, or one of more."""
    cfg = RunConfig(
        model=small.config(),
        sampling=SamplingConfig(max_prompt=2, max_tokens=18, slots=3, refill=1),
        rl=RLConfig(questions=2, group=4, minibatches=2),
        steps=5,
    )
    layout = Layout(4, 2, 2, 2, 20)
    assert price.filled([8, 8, 8, 8, 8, 8, 8, 8], 2, layout) == 2
    assert price.filled([8, 8, 8, 8, 9, 9, 9, 9], 2, layout) == 3
    assert price.filled([18] * 8, 2, layout) == 4

    def part(best):
        time = Roofline(best, 0, {}, best)  # at worst twice that
        return Report("", "", "", 3, True, 1, 1, {}, 0, 1, 1, 0, (), time=time)

    parts = {"reshard": part(5), "prefill": part(7), "decode": part(0.5 * WINDOW)}
    it = price.iteration(cfg, "8:0", 3, layout, parts, part(40))
    assert (it.steps, it.tokens, it.updates) == (24, 64, 2)  # 3 + 3 + 2 replies on 3 slots
    assert it.seconds == (5 + 7 + 12 + 20, 2 * 44) and it.hours(3600) == it.seconds
    rows = dict(price.priced(it, 3, 1.5, cfg))
    assert rows["costs"].startswith(f"{5 * 44 / 3600 * 4.5:,.0f} to ")
    assert rows["a million sampled tokens"].startswith(f"{12 / 3600 * 4.5 / 64 * 1e6:.3f} to ")
    assert "2 questions x 4 replies" in rows["assumes"]


def test_a_roofline_is_the_longest_of_its_three_times():
    chip = CHIPS["v5p"]
    product = Product("", chip.bfloat16 * 2, "bf16", False)
    exact = Product("", chip.bfloat16, "f32", True)
    sent = [
        Sent("all-gather", "fsdp", 1, chip.links * 3, False, ""),
        Sent("all-reduce", "expert", 2, chip.links * 1, False, ""),
    ]
    found = roofline(chip, [product, exact], [], chip.hbm * 5, sent)
    # Six passes for what must be exact; three axes of a torus, of which a ring has one.
    assert found == Roofline(
        pytest.approx(8), pytest.approx(5),
        {"fsdp": pytest.approx(3), "expert": pytest.approx(1)}, pytest.approx(12),
    )  # fmt: skip
    assert found.best == pytest.approx(8) and found.worst == pytest.approx(20)
    assert found.bound == "products"
    assert Roofline(1, 5, {"fsdp": 3.0, "expert": 1.0}, 12).bound == "HBM bandwidth"
    assert Roofline(1, 3, {"fsdp": 3.0, "expert": 1.0}, 12).bound == "collectives, most along fsdp"


def test_what_goes_between_hosts_takes_the_network():
    chip = CHIPS["h100"]
    sent = [Sent("all-gather", "fsdp", 1, chip.network, True, "")]
    assert roofline(chip, [], [], 0, sent).sent == {"fsdp": 1}


SAID = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space
hbm. Used 20.13G of 15.75G hbm. Exceeded hbm capacity by 4.38G.

Total hbm usage >= 20.38G:
    reserved        258.00M
    program          20.13G
    arguments            0B

Largest program allocations in hbm:

  1. Size: 16.00G
     Operator: op_name="jit(f)/while/body/dot_general" source_file="a.py" source_line=3
     Shape: f32[4,32768,32768]{2,1,0:T(8,128)}
     Unpadded size: 16.00G
     XLA label: fusion = f32[4,32768,32768] fusion(...)
     Allocation type: HLO temp
     ==========================

  2. Size: 2.50M
     Shape: bf16[8,64]{1,0:T(8,128)(2,1)}
     ==========================
"""


def test_what_a_compiler_says_of_memory():
    found = out_of_memory(SAID)
    assert (found.needed, found.has) == (20.13 * 2**30, 15.75 * 2**30)
    assert found.largest == [
        (16 * 2**30, "f32[4,32768,32768]", "jit(f)/while/body/dot_general"),
        (2.5 * 2**20, "bf16[8,64]", ""),
    ]
    other = "RESOURCE_EXHAUSTED: ... HLO temporaries (1.07T) exceeds available HBM (95.74G)"
    found = out_of_memory(other)
    assert (found.needed, found.has) == (1.07 * 2**40, 95.74 * 2**30)


def test_labels_say_what_was_traced_and_when():
    again = "jit(f)/while/body/transpose(jvp())/while/body/closed_call/checkpoint/"
    assert label("jit(f)/jvp()/while/body/closed_call/bqk,dv->x/dot_general") == (
        "bqk,dv->x/dot_general"
    )
    assert label(f"{again}rematted_computation/a/dot_general") == "a/dot_general (again)"
    assert label(f"{again}transpose(jvp(a,b->c))/dot_general") == "a,b->c/dot_general (backward)"


def test_several_plans_are_every_combination_of_what_is_listed(tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    given = ["--job=grpo,sample", "--rl.rows=8", f"--model={folder}", "--tokens", "64,128"]
    found = many.combinations(given)
    listed = [("grpo", 64), ("grpo", 128), ("sample", 64), ("sample", 128)]
    assert [set(one) for one in found] == [
        {f"--job={job}", "--rl.rows=8", f"--model={folder}", f"--tokens={tokens}"}
        for job, tokens in listed
    ]
    assert many.combinations(["--job=sft", "--sweep"]) == [["--job=sft", "--sweep"]]
    with pytest.raises(InputError, match="--sweep: of one plan, not of 2"):
        many.combinations(["--job=sft,grpo", "--sweep"])
    for flag in ("--topology=v5e:2x2,", "--topology=h100:1,,h100:2", "--model="):
        with pytest.raises(InputError, match=f"^{flag}: an empty name"):
            many.combinations([flag])


def test_a_line_of_a_table_says_what_came_out():
    time = Roofline(2, 0, {}, 2)
    report = Report(
        "", "", "", 3, True, 8 * GIB, 6 * GIB, {}, 0, 10, 100, 0, (), compiled=11, time=time
    )
    about = "a", "v5e:2x2", "sft", "64"
    line = many.line(about, "4x1", report)
    assert line == "| a | v5e:2x2 | sft | 64 | 4x1 | 6.0 of 8.0 GiB | 1.10 | 50 to 25 | products |"
    full = replace(report, fits=False, peak=9 * GIB, time=None, compiled=None)
    assert many.line(about, "4x1", full).endswith("| 4x1 | **9.0 of 8.0 GiB** |  |  | memory |")
    assert many.line(about, "4x1", "no slice").count("|") == line.count("|")


@pytest.mark.parametrize(
    "args, mesh",
    [
        (["--model=deepseek-v2-lite", "--topology=h100:8"], "1x8"),
        (["--model=deepseek-r1-distill-qwen-1.5b", "--topology=v5e:2x4"], "8x1"),
        (["--model=deepseek-r1-distill-qwen-14b", "--topology=v6e:4x4"], "4x4"),
        (["--model=deepseek-r1-distill-llama-70b", "--topology=h100:2x8"], "2x8"),
    ],
)
def test_the_usual_mesh_splits_what_a_device_does_not_hold(args, mesh):
    asked = plan.understood(list(args))
    assert plan.usual_mesh(asked.cfg, asked.where) == mesh
