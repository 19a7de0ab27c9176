"""What fits a card: exact bytes against arrays that were made, and the command's table."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import small

from experiments import fit as command
from r1jax import fit, sharding
from r1jax.architecture import GQAConfig
from r1jax.checks import InputError
from r1jax.model.quantise import nbytes
from r1jax.optim import random_weights
from r1jax.published import MODELS
from r1jax.sampling.layout import lay_out
from r1jax.sampling.slots import new_cache

STUDENT = small.config(
    vocab=512,
    d_model=128,
    layers=3,
    dense_layers=3,
    dense_ffn=256,
    router=None,
    shared_experts=0,
    expert_ffn=0,
    attention=GQAConfig(heads=4, kv_heads=2, head_dim=32, qkv_bias=True),
    context=256,
)


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_weights_and_cache_are_those_of_an_engine(weights):
    model = fit.kept(STUDENT, weights)
    need = fit.served(model, 128, 4, 32, compiles=False)
    mesh = sharding.make_mesh("1")
    made = lay_out(random_weights(model, mesh, jax.random.key(0)), model=model, mesh=mesh)
    cache = new_cache(model=model, slots=4, length=128)
    assert need.weights == nbytes(made) and need.cache == nbytes(cache)
    # Each array as XLA stores it, int4 two a byte.
    packed = sum(
        -(-a.size // 2) if a.dtype == jnp.int4 else a.nbytes for a in jax.tree.leaves(made)
    )
    assert need.weights == packed


def test_the_published_student_by_hand():
    """Qwen 1.5B: 28 layers of 1,536, 12 heads and 2 of keys, an FFN of 8,960, a head of its own."""
    model = MODELS["deepseek-r1-distill-qwen-1.5b"]()
    d, f, v, n = 1536, 8960, 151_936, 28
    matrices = n * (d * (1536 + 512) + 1536 * d + 3 * d * f)
    vectors = n * (2 * d + 1536 + 512) + d
    want = 2 * (matrices + vectors + 2 * v * d)
    cache = 2 * n * 2 * 2 * 128 * 8192
    need = fit.served(fit.kept(model, "bf16"), 8192, 1, 512, compiles=False)
    assert need.weights == want and need.cache == cache
    # A scale of bfloat16 for 128 weights; of float32 for each row of vocabulary.
    int4 = matrices // 2 + 2 * matrices // 128 + 2 * vectors + 2 * (v * d + 4 * v)
    assert fit.served(fit.kept(model, "int4"), 8192, 1, 512, False).weights == int4


def test_the_longest_context_is_the_last_that_fits():
    model = fit.kept(MODELS["deepseek-r1-distill-qwen-32b"](), "int4")
    card = fit.card_bytes("24GB")
    longest = fit.longest_context(model, card, 1, 1024)

    def total(context):
        return fit.served(model, context, 1, 1024, False).total + fit.RESERVED

    assert total(longest) <= card < total(longest + 64)
    assert fit.longest_context(model, fit.card_bytes("8GB"), 1, 1024) == 0


def test_what_the_program_says_is_asked_of_it():
    model = fit.kept(dataclasses.replace(STUDENT, scan_layers=True), "int8")
    need = fit.served(model, 64, 2, 16, compiles=True)
    assert need.temporaries > 0


def test_the_table(capsys):
    command.main(["--card=8GB", "--model=deepseek-r1-distill-qwen-7b", "--context=4096"])
    lines = capsys.readouterr().out.splitlines()
    fits = {cells[2].strip(): cells[7].strip() for cells in (row.split("|") for row in lines[3:])}
    assert fits == {"bf16": "no", "int8": "no", "int4": "yes"}


@pytest.mark.parametrize("card", ["", "big", "-1GB", "nanGB", "infGB"])
def test_a_card_is_a_size(card):
    with pytest.raises(InputError, match=f"--card={card}"):
        fit.card_bytes(card)
