"""What sampling sends between devices: tokens on their way to experts, and what hosts read. Nothing
as large as the cache or the weights."""

import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import small
from hlo import largest

from r1jax.architecture import GQAConfig, RouterConfig
from r1jax.config import SamplingConfig
from r1jax.model.params import weight_specs
from r1jax.sampling import slots
from r1jax.sampling.engine import Engine, Request
from r1jax.sampling.layout import as_drawn, lay_out
from r1jax.sharding import EXPERT, for_sampling, make_mesh, shardings

GQA = GQAConfig(heads=4, kv_heads=2, head_dim=8)
# What may travel, 16 rows of 16 numbers to experts and 128 x 16 tokens to hosts, is less than any
# array of a cache of 512 positions, or than the embedding.
MODEL = {"vocab": 4096, "d_model": 16, "layers": 3, "dense_layers": 1, "context": 1024}
SAMPLING = SamplingConfig(max_prompt=500, max_tokens=500, slots=16, refill=16)


@pytest.fixture(scope="module", params=["mla", "mla-unrolled", "gqa"])
def engine(request):
    changes = {"attention": GQA} if request.param == "gqa" else {}
    model = small.config(**MODEL, **changes, scan_layers="unrolled" not in request.param)
    mesh = make_mesh("2x4")
    weights = jax.device_put(small.weights(model), shardings(weight_specs(model), mesh))
    engine = Engine(model, SAMPLING, mesh, [0])
    engine.load(weights)
    for i in range(16):
        engine.submit(Request([1, 2, i // 4], i // 4, i), jax.random.key(0))
    with jax.set_mesh(engine.mesh):
        engine._admit()
        engine._refit(engine._per, 512)
    return engine


@pytest.mark.parametrize("filters", [False, True])
def test_decoding_sends_tokens_and_no_cache(engine, filters):
    rows = engine._rows if filters else engine._rows.replace(cutoffs=None, biases=None)
    with jax.set_mesh(engine.mesh):
        lowered = slots.decode.lower(
            engine._weights, engine._cache, rows, np.int32(0), np.int32(1), model=engine.model
        )
    cache = min(a.size for a in jax.tree.leaves(engine._cache))
    assert largest(lowered.compile().as_text()) == slots.WINDOW * 16 < min(cache, 4096 * 16)


def test_reading_prompts_sends_what_goes_to_experts(engine):
    tokens = np.zeros((16, 128), np.int32)
    with jax.set_mesh(engine.mesh):
        lowered = slots.prefill.lower(engine._weights, tokens, model=engine.model)
    # All tokens, of 16 numbers each, meet on the eight devices that the eight experts are over.
    assert engine.mesh.shape[EXPERT] == 8
    assert largest(lowered.compile().as_text()) == 16 * 128 * 16 < 4096 * 16


def test_moving_sends_nothing(engine):
    none, count = np.zeros(16, np.int32), np.zeros(8, np.int32)
    model, cache = engine.model, engine._cache
    with jax.set_mesh(engine.mesh):
        fresh = slots.prefill(engine._weights, np.zeros((8, 64), np.int32), model=model)
        programs = [
            slots.place.lower(cache, fresh, none, none, count, model=model),
            slots.share.lower(cache, none, none, count, model=model),
            slots.refit.lower(cache, none[:8], model=model, length=1000),
            slots.refit.lower(cache, none, model=model, length=64),
        ]
        assert [largest(p.compile().as_text()) for p in programs] == [0] * 4


def test_weights_are_gathered_once_and_experts_never(engine):
    """By the layout: not a gather is left for decoding (above)."""
    for path, a in jax.tree_util.tree_leaves_with_path(engine._weights):
        name = jax.tree_util.keystr(path)
        expert = name.endswith(("gate_EDF", "up_EDF", "down_EFD"))
        held = math.prod(a.sharding.shard_shape(a.shape))
        assert held == a.size // (engine.mesh.shape[EXPERT] if expert else 1), name


@pytest.mark.parametrize("experts", [8, 12, 0])
@pytest.mark.parametrize("text", ["8x1", "4x2", "2x4", "1x4", "context=4,expert=2"])
def test_laid_out_they_are_what_they_were(text, experts):
    """Whole, or of a device's experts in training a part; of 12 experts not each of 8 devices has
    its own."""
    router = RouterConfig(experts=experts, active=2) if experts else None
    dense = {"dense_layers": 3, "shared_experts": 0}
    model = small.config(**MODEL | ({} if experts else dense), router=router)
    mesh, specs = make_mesh(text), weight_specs(model)
    weights = jax.device_put(small.weights(model), shardings(specs, mesh))
    laid = lay_out(weights, model=model, mesh=mesh)
    after = for_sampling(mesh, experts)
    assert after.shape[EXPERT] == {0: mesh.shape[EXPERT], 8: mesh.size, 12: 4}[experts]
    want = as_drawn(jax.device_get(weights), model)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(laid), jax.device_get(want))
    assert {a.sharding.mesh for a in jax.tree.leaves(laid)} == {after}
    if experts:
        for shard in jax.tree.leaves(laid.params.moe.ffn.gate_EDF)[0].addressable_shards:
            group = np.argwhere(mesh.devices == shard.device)[0, -1]
            first = group * experts // mesh.shape[EXPERT]
            own = shard.index[-3]
            assert first <= own.start and own.stop <= first + experts // mesh.shape[EXPERT]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_what_is_multiplied_is_laid_out_in_the_dtype_of_computing(dtype, scan_layers):
    """And the router and the norms as they are: they compute in float32."""
    model = small.config(mtp_depth=1, dtype=dtype, scan_layers=scan_layers)
    laid = lay_out(small.weights(model), model=model, mesh=make_mesh("1"))
    assert laid.params.mtp == ()
    kept = ("norm", "router")
    for path, a in jax.tree_util.tree_leaves_with_path(laid):
        name = jax.tree_util.keystr(path)
        assert a.dtype == ("float32" if any(k in name for k in kept) else dtype), name


PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
import small
from hlo import largest
from test_traffic import MODEL
from launch.planning import chips, targets
from r1jax import sharding
from r1jax.model.params import weight_specs
from r1jax.model.transformer import unstacked
from r1jax.sampling import layout, slots
from r1jax.sampling.rows import Rows
from r1jax.sampling.samplers import Biases, Cutoffs

mesh = targets.mesh(chips.topology("v5e:2x4"), "2x4")
model = small.config(**MODEL, dtype="bfloat16")
specs = weight_specs(model)


def abstract(tree, spec):
    where = jax.sharding.NamedSharding(mesh, spec)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)


def like(compiled):
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        compiled.out_info, compiled.output_shardings,
    )


def array(dtype, *shape):
    return abstract(jax.ShapeDtypeStruct(shape, dtype), jax.sharding.PartitionSpec())


weights = jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
    sharding.abstract(specs), sharding.shardings(specs, mesh),
)
laid = layout.abstract_laid(weights, model, mesh)
mesh = sharding.for_sampling(mesh, layout.experts_of(model))
i, f = jnp.int32, jnp.float32
rows = Rows(
    array(i, 16), array(i, 16), array(i, 16), array(jnp.bool_, 16), array(jnp.uint32, 16, 2),
    array(i, 16), array(i, 16), array(f, 16), array(i, 16, 8),
    Cutoffs(array(i, 16), array(f, 16)), Biases(array(i, 16, 32), array(f, 16, 32)),
)
with jax.set_mesh(mesh):
    weights = like(jax.jit(unstacked, static_argnums=1).lower(laid, model).compile())
    prefill = slots.prefill.lower(weights, array(i, 16, 128), model=model).compile()
    fresh = like(prefill)
    cache = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((*a.shape[:2], 512, a.shape[-1]), a.dtype,
                                       sharding=a.sharding), fresh)
    x, count = array(i, 16), array(i, 8)
    place = slots.place.lower(cache, fresh, x, x, count, model=model).compile()
    decode = [
        slots.decode.lower(weights, cache, r, array(i), array(i), model=model).compile()
        for r in (rows, rows.replace(cutoffs=None, biases=None))
    ]
sent = [largest(p.as_text()) for p in (prefill, *decode, place)]
# Of the prompts' 16 x 128 tokens an eighth is a device's, each for two experts, in a buffer of 1.25
# times as many; in decoding it has room for all 16. A TPU's lanes make 256 numbers of 16.
buffer = 16 * 128 // 8 * 2 * 5 // 4
assert sent == [buffer * 256, 16 * 256, 16 * 256, 0], sent
"""


@pytest.mark.slow
def test_prefill_and_decoding_compile_for_tpus_and_send_as_little():
    pytest.importorskip("libtpu")
    folders = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    paths = [*folders, os.path.dirname(folders[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": "",
        "PYTHONPATH": os.pathsep.join(paths),
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
