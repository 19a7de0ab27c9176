"""What Transformers computed (make_golden.py), computed again: no torch needed."""

import dataclasses
import functools
from pathlib import Path

import families
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from r1jax import hub, sharding
from r1jax.architecture import ModelConfig
from r1jax.config import SamplingConfig
from r1jax.model.head import unembed
from r1jax.model.params import Weights
from r1jax.model.transformer import forward
from r1jax.sampling.engine import Engine, Request

# The first three run on eight devices too, and their replies are always drawn again; the others
# are alike enough that those runs are left to the slow tests.
FAMILIES = ["deepseek_v3", "deepseek_v2_groups", "qwen3"]
FAMILIES += [family for family in families.CONFIGS if family not in FAMILIES]
ON = [(family, mesh) for family in FAMILIES for mesh in ("1", "2x4")]
TOLERANCE = 1e-4  # of the largest logit; what is seen is 7e-7 to 5e-6


def cases(always):
    """Every family on every mesh; slow unless it is one of the first three or `always` is."""
    return [
        pytest.param(
            *case, marks=() if case[0] in FAMILIES[:3] or always(*case) else pytest.mark.slow
        )
        for case in ON
    ]


@functools.cache
def golden(family: str) -> dict[str, np.ndarray]:
    return load_file(Path(__file__).parent / "golden" / f"{family}.safetensors")


@pytest.fixture(scope="session")
def load(tmp_path_factory):
    """(weights, config) of a family on a mesh, as a user would read them."""

    @functools.cache
    def folder(family: str) -> Path:
        return families.write(tmp_path_factory.mktemp(family) / family, families.CONFIGS[family])

    @functools.cache
    def one(family: str, mesh: str) -> tuple[Weights, ModelConfig]:
        model = hub.read_config(folder(family))
        where = sharding.make_mesh(mesh)
        return hub.load_weights(folder(family), model, where, progress=False), model

    return one


@functools.partial(jax.jit, static_argnames="cfg")
def run(weights: Weights, tokens_BT, cfg: ModelConfig):
    out = forward(weights, tokens_BT, cfg)
    return unembed(weights.params, out.hidden_BTD, cfg), out.stats


def far(family: str, logits_BTV) -> float:
    """The worst row's distance from the golden logits."""
    return max(families.relative(row_TV, golden(family)["logits_TV"]) for row_TV in logits_BTV)


@pytest.mark.parametrize(("family", "mesh"), cases(lambda family, mesh: mesh == "1"))
def test_logits_are_those_of_transformers(family, mesh, load):
    weights, model = load(family, mesh)
    where = sharding.make_mesh(mesh)
    tokens = np.repeat(families.row(family), where.size, axis=0)
    with jax.set_mesh(where):
        logits, stats = run(weights, tokens, model)
    assert far(family, logits) < TOLERANCE
    if model.router is not None:
        load_LE = golden(family)["load_LE"]
        np.testing.assert_array_equal(stats.load_E, where.size * load_LE)
        # Or routing is not put to the test: nearly all experts are used, and unevenly.
        assert (load_LE > 0).mean() > 0.9 and load_LE.max() > 4 * load_LE.min()


@pytest.mark.parametrize(("family", "mesh"), cases(lambda family, mesh: False))
def test_greedy_replies_are_those_of_transformers(family, mesh, load):
    """Through the rollout engine: prompts of three lengths, on fewer slots than prompts."""
    weights, model = load(family, mesh)
    want, numbers = golden(family), range(3)
    cfg = SamplingConfig(temperature=0.0, max_prompt=32, max_tokens=64, slots=2, refill=1)
    engine = Engine(model, cfg, sharding.make_mesh(mesh), stop=[])
    requests = [Request(want[f"prompt_{i}"], i, 0) for i in numbers]
    completions, _ = engine.generate(weights, requests, jax.random.key(0))
    for i, completion in zip(numbers, completions, strict=True):
        np.testing.assert_array_equal(completion.tokens, want[f"reply_{i}"])


def test_groups_and_biases_are_needed_for_it(load):
    """Or the comparison would not see routing go wrong."""
    family = "deepseek_v3"
    weights, model = load(family, "1")
    bias = weights.router_bias_LE
    assert (bias < 0).any() and (bias > 0).any()
    unbiased, _ = run(weights.replace(router_bias_LE=0 * bias), families.row(family), model)
    router = dataclasses.replace(model.router, groups=1, group_limit=1)
    ungrouped, _ = run(weights, families.row(family), dataclasses.replace(model, router=router))
    assert far(family, unbiased) > 100 * TOLERANCE and far(family, ungrouped) > 100 * TOLERANCE
