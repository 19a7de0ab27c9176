"""Multi-token prediction (DeepSeek-V3, section 2.2).

B batch  T time  D d_model
"""

import jax
import jax.numpy as jnp

from r1jax.architecture import ModelConfig
from r1jax.model.cache import LayerCache
from r1jax.model.head import log_probs
from r1jax.model.layers import Place, rms_norm
from r1jax.model.matrices import multiply, rows
from r1jax.model.moe import RouterStats
from r1jax.model.params import Weights
from r1jax.model.transformer import apply_layer, place_of, remat
from r1jax.model.zigzag import in_order, spread


def mtp_log_probs(
    weights: Weights,
    hidden_BTD: jax.Array,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
    positions_BT: jax.Array,
    cfg: ModelConfig,
) -> tuple[list[jax.Array], list[jax.Array], list[RouterStats]]:
    """Log-probs of the tokens two, three, ... ahead, from the main model's hidden states.

    Depth k (`ahead`) predicts token i + k + 1 at position i, with the shared head (eq. 23).
    Returns, a depth: log-probs [B, T], a mask of positions whose input and target lie in the same
    segment, and the routing statistics.
    """
    params = weights.params
    place = place_of(*spread((positions_BT, segments_BT)), cfg)
    hidden, norm_D, logps, masks, stats = hidden_BTD, params.norm_D, [], [], []
    for k, p in enumerate(params.mtp, start=1):
        valid = (shifted(segments_BT, k) == segments_BT) & (segments_BT > 0)
        mine = place.replace(valid_BT=spread(valid))
        hidden, _, layer_stats = ahead(weights, k, hidden, norm_D, shifted(tokens_BT, k), mine, cfg)
        norm_D = p.norm_D
        logp, _ = log_probs(params, hidden, shifted(tokens_BT, k + 1), cfg, norm=norm_D)
        logps.append(logp)
        masks.append((shifted(segments_BT, k + 1) == segments_BT) & (segments_BT > 0))
        stats.append(layer_stats)
    return logps, masks, stats


def ahead(
    weights: Weights,
    k: int,
    hidden_BTD: jax.Array,
    norm_D: jax.Array,
    tokens_BT: jax.Array,
    place: Place,
    cfg: ModelConfig,
    cache: LayerCache | None = None,
) -> tuple[jax.Array, LayerCache | None, RouterStats]:
    """Depth k, from 1 on: combines the hidden state at i, of depth k - 1, with the embedding of
    token i + k, which is `tokens_BT` (eq. 21; here the embedding comes first, as in the published
    checkpoint's `eh_proj`), and runs one layer. `place` is of tokens as the
    layers have them. Returns (hidden, cache, routing statistics).

    Paper: h_0 is "the representation given by the main model"; whether its final norm, `norm_D`,
    comes before is not said (deepseek-ai/DeepSeek-V3 issue 839), nor is it of the norm before the
    head of depth k - 1. Code: as cfg.mtp_hidden says. Eq. 21 norms its input itself, so the two
    differ by a scale of each channel, to which a module trained here gets used either way; vLLM
    feeds the published module normed states.
    """
    p, params = weights.params.mtp[k - 1], weights.params
    assert weights.router_bias_LE is not None
    bias_E = weights.router_bias_LE[cfg.moe_layers + k - 1]
    if cfg.mtp_hidden == "normed":
        hidden_BTD = rms_norm(hidden_BTD, norm_D, cfg.norm_eps)
    joined = jnp.concatenate(
        [
            rms_norm(rows(params.embed_VD, tokens_BT, cfg.dtype), p.embed_norm_D, cfg.norm_eps),
            rms_norm(hidden_BTD, p.hidden_norm_D, cfg.norm_eps),
        ],
        axis=-1,
    )

    def layer(x, p, bias_E, cache):
        return apply_layer(x, p, bias_E, cfg, place, cache)

    x = spread(multiply(joined, p.project_ED))
    hidden_BTD, cache, stats = remat(layer, cfg)(x, p.layer, bias_E, cache)
    return in_order(hidden_BTD), cache, stats


def shifted(a_BT: jax.Array, k: int) -> jax.Array:
    """Each position sees what stands k later; zeros (padding) past the end."""
    return jnp.pad(a_BT[:, k:], ((0, 0), (0, min(k, a_BT.shape[1]))))
