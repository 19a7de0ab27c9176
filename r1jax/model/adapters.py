"""LoRA (arXiv 2106.09685): what is trained is a product of two thin matrices beside a frozen one.

Paper, section 4.1: h = W x + (alpha / r) B A x, A drawn and B zero at first. Code: the same, with
A as PEFT draws it, uniform within 1 / sqrt(inputs); adapters are float32, whatever W is kept in.
Embedding and head may be trained whole beside them, as copies (PEFT's modules_to_save).

M rows of x  K all inputs  O all outputs  R rank
"""

import math
import zlib

import flax.struct
import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.architecture import LORA_TARGETS, LoraConfig
from r1jax.checks import check
from r1jax.model.matrices import Matrix, dense, dot
from r1jax.model.params import Params, Weights
from r1jax.sharding import ParamSpec

# The module of a checkpoint that each parameter is, where it is one.
MODULES = {
    "q_DHX": "q_proj",
    "k_DKX": "k_proj",
    "v_DKX": "v_proj",
    "q_a_DQ": "q_a_proj",
    "q_b_QHX": "q_b_proj",
    "kv_b_CHY": "kv_b_proj",
    "out_HXD": "o_proj",
    "out_HUD": "o_proj",
    "gate_DF": "gate_proj",
    "up_DF": "up_proj",
    "down_FD": "down_proj",
}


class Beside(Matrix):
    """What is trained beside a frozen matrix. `base` is None in the trained part of a tree."""

    base: jax.Array | Matrix | None  # frozen


class Copied(Beside):
    """`own` in place of base, as which it begins."""

    own: jax.Array  # float32

    @property
    def shape(self):
        return self.own.shape

    def product(self, x_MK):
        return dot(x_MK, self.own.astype(x_MK.dtype))

    def dense(self, dtype):
        return self.own.astype(dtype)

    def head(self):
        return self.own.T

    def specs(self, spec):
        base = self.base.specs(spec) if isinstance(self.base, Matrix) else spec
        return self.replace(base=base, own=spec)


class Adapted(Beside):
    """base + scale * a b."""

    a: jax.Array  # [leading..., inputs..., R]
    b: jax.Array  # [leading..., R, outputs...]
    scale: float = flax.struct.field(pytree_node=False)
    inputs: int = flax.struct.field(pytree_node=False)
    outputs: int = flax.struct.field(pytree_node=False)

    @property
    def shape(self):
        return self.base.shape  # type: ignore[union-attr]

    def product(self, x_MK):
        k, dtype = x_MK.shape[1], x_MK.dtype
        if isinstance(self.base, Matrix):
            y_MO = self.base.product(x_MK)
        else:
            assert self.base is not None
            y_MO = dot(x_MK, self.base.reshape(k, -1).astype(dtype))
        h_MR = dot(x_MK, self.a.reshape(k, -1).astype(dtype)).astype(dtype)
        b_RO = self.b.reshape(h_MR.shape[1], -1).astype(dtype)
        return y_MO + self.scale * dot(h_MR, b_RO)

    def dense(self, dtype):
        n = self.a.ndim - self.inputs - 1
        lead, outputs = self.a.shape[:n], self.b.shape[n + 1 :]
        rank = self.a.shape[-1]
        a, b = self.a.reshape(*lead, -1, rank), self.b.reshape(*lead, rank, -1)
        delta = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        delta = delta.reshape(*self.a.shape[:-1], *outputs)
        return (dense(self.base, jnp.float32) + self.scale * delta).astype(dtype)

    def specs(self, spec):
        end = len(spec.shape) - self.outputs
        n, rank = end - self.inputs, self.a.shape[-1]
        a = ParamSpec((*spec.shape[:end], rank), (*spec.axes[:end], None), spec.init)
        shape = *spec.shape[:n], rank, *spec.shape[end:]
        b = ParamSpec(shape, (*spec.axes[:n], None, *spec.axes[end:]), spec.init)
        base = self.base.specs(spec) if isinstance(self.base, Matrix) else spec
        return self.replace(base=base, a=a, b=b)


def is_adapted(x) -> bool:
    return isinstance(x, Beside)


def has_adapters(tree) -> bool:
    return any(map(is_adapted, jax.tree.leaves(tree, is_leaf=is_adapted)))


def adapt(path, w, spec: ParamSpec, lora: LoraConfig):
    """A parameter with what is trained beside it, if it is one of those that `lora` names. What is
    drawn depends on its path alone."""
    name = jax.tree_util.keystr(path[-1:], simple=True)
    targets = lora.modules()
    if lora.embeddings and name in ("embed_VD", "head_DV") and not is_adapted(w):
        return Copied(w, dense(w, jnp.float32))
    if is_adapted(w) or spec.axes[:1] != ("layers",) or MODULES.get(name) not in targets:
        return w
    assert spec.matrix is not None
    inputs, outputs = spec.matrix
    end = len(spec.shape) - outputs
    if end - inputs != 1:  # experts
        return w
    width = math.prod(spec.shape[1:end])
    key = jax.random.key(zlib.crc32(jax.tree_util.keystr(path).encode()))
    most = width**-0.5
    a = jax.random.uniform(key, (*spec.shape[:end], lora.rank), jnp.float32, -most, most)
    b = jnp.zeros((spec.shape[0], lora.rank, *spec.shape[end:]), jnp.float32)
    return Adapted(w, a, b, lora.alpha / lora.rank, inputs, outputs)


def with_adapters(params: Params, specs: Params, lora: LoraConfig) -> Params:
    """Raises InputError if `lora` names no parameter that there is, or a rank that none has."""
    found = jax.tree_util.tree_map_with_path(
        lambda path, spec, w: adapt(path, w, spec, lora), specs, params, is_leaf=sharding.is_spec
    )
    _check_rank(found, lora)
    check(
        has_adapters(found),
        f"LoraConfig.targets={lora.targets}: the model has none of these; it may have "
        f"{', '.join(LORA_TARGETS)}",
    )
    return found


def _check_rank(params: Params, lora: LoraConfig) -> None:
    """A product of matrices as wide as the one beside it can be all that one can be."""
    leaves = jax.tree.leaves(params, is_leaf=is_adapted)
    widths = [
        min(math.prod(w.a.shape[1:-1]), math.prod(w.b.shape[2:]))
        for w in leaves
        if isinstance(w, Adapted)
    ]
    check(
        not widths or lora.rank <= max(widths),
        f"LoraConfig.rank={lora.rank}: no matrix here has a rank above {max(widths, default=0)}",
    )


def adapters_of(params):
    """The part that is trained: adapters without what they stand beside, None elsewhere."""
    return jax.tree.map(
        lambda w: w.replace(base=None) if is_adapted(w) else None, params, is_leaf=is_adapted
    )


def joined(adapters, params):
    """`params` with these adapters in place of its own."""
    return jax.tree.map(
        lambda w, part: part.replace(base=w.base) if is_adapted(w) else w,
        params,
        adapters,
        is_leaf=is_adapted,
    )


def without_adapters(weights: Weights) -> Weights:
    """The frozen model."""
    return jax.tree.map(lambda w: w.base if is_adapted(w) else w, weights, is_leaf=is_adapted)


def merged(weights: Weights) -> Weights:
    """What adapters make of what they stand beside, as arrays."""
    return jax.tree.map(
        lambda w: w.dense(jnp.float32) if is_adapted(w) else w, weights, is_leaf=is_adapted
    )
