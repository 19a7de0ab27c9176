"""Multi-token prediction (DeepSeek-V3, section 2.2).

B batch  T time  D d_model
"""

import jax
import jax.numpy as jnp

from r1jax.architecture import ModelConfig
from r1jax.model.head import log_probs
from r1jax.model.layers import rms_norm
from r1jax.model.matrices import multiply, rows
from r1jax.model.moe import RouterStats
from r1jax.model.params import Weights
from r1jax.model.transformer import apply_layer, place_of, remat


def mtp_log_probs(
    weights: Weights,
    hidden_BTD: jax.Array,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
    positions_BT: jax.Array,
    cfg: ModelConfig,
) -> tuple[list[jax.Array], list[jax.Array], list[RouterStats]]:
    """Log-probs of the tokens two, three, ... ahead, from the main model's hidden states.

    Depth k combines the hidden state at i with the embedding of token i + k (eq. 21; here the
    embedding comes first, as in the published checkpoint's `eh_proj`), runs one layer, and
    predicts token i + k + 1 with the shared head (eq. 23).

    Paper: h_0 is "the representation given by the main model"; whether the main model's final norm
    comes before is not said (deepseek-ai/DeepSeek-V3 issue 839). Code: it does not, as eq. 21 norms
    its input itself; vLLM feeds the normed states to the published module. The two differ by the
    final norm's scale, which a module trained here absorbs: only the use of published MTP weights
    depends on it. Returns, a depth: log-probs [B, T], a
    mask of positions whose input and target lie in the same segment, and the routing statistics.
    """
    params = weights.params
    place = place_of(positions_BT, segments_BT, cfg)
    hidden, logps, masks, stats = hidden_BTD, [], [], []
    for k, p in enumerate(params.mtp, start=1):
        bias_E = weights.router_bias_LE[cfg.moe_layers + k - 1]
        ahead = _shift(tokens_BT, k)
        joined = jnp.concatenate(
            [
                rms_norm(rows(params.embed_VD, ahead, cfg.dtype), p.embed_norm_D, cfg.norm_eps),
                rms_norm(hidden, p.hidden_norm_D, cfg.norm_eps),
            ],
            axis=-1,
        )
        x = multiply(joined, p.project_ED)
        valid = (_shift(segments_BT, k) == segments_BT) & (segments_BT > 0)

        def layer(x, p=p, bias_E=bias_E, valid=valid):
            return apply_layer(x, p.layer, bias_E, cfg, place._replace(valid_BT=valid), None)

        hidden, _, layer_stats = remat(layer, cfg)(x)
        logp, _ = log_probs(params, hidden, _shift(tokens_BT, k + 1), cfg, norm=p.norm_D)
        logps.append(logp)
        masks.append((_shift(segments_BT, k + 1) == segments_BT) & (segments_BT > 0))
        stats.append(layer_stats)
    return logps, masks, stats


def _shift(a_BT: jax.Array, k: int) -> jax.Array:
    """Each position sees what stands k later; zeros (padding) past the end."""
    return jnp.pad(a_BT[:, k:], ((0, 0), (0, min(k, a_BT.shape[1]))))
