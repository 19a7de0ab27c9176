"""DeepSeek-V3 in NumPy float64, slow and obviously right: what the tests hold the model against.

Written from the papers (V2: arXiv 2405.04434, V3: arXiv 2412.19437) and from the reference
inference code of deepseek-ai/DeepSeek-V3, one sequence, token and head at a time. Of the model it
shares only the parameter tree, with NumPy leaves.

T time  D d_model  E experts
"""

import math

import jax
import numpy as np


def to_numpy(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def rms_norm(x, scale, eps):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * scale


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    weights = np.exp(x - np.max(x))
    return weights / np.sum(weights)


def swiglu(x, gate, up, down):
    return (x @ gate * sigmoid(x @ gate) * (x @ up)) @ down


def rope_frequencies(rope, dim):
    """`precompute_freqs_cis` of the reference code, one pair at a time."""

    def correction_dim(rotations):
        turns = rope.original_context / (rotations * 2 * math.pi)
        return dim * math.log(turns) / (2 * math.log(rope.theta))

    low = max(math.floor(correction_dim(rope.beta_fast)), 0)
    high = min(math.ceil(correction_dim(rope.beta_slow)), dim - 1)
    if low == high:
        high += 0.001
    frequencies = []
    for pair in range(dim // 2):
        frequency = 1 / rope.theta ** (2 * pair / dim)
        if rope.factor > 1:
            smooth = 1 - min(max((pair - low) / (high - low), 0), 1)
            frequency = frequency / rope.factor * (1 - smooth) + frequency * smooth
        frequencies.append(frequency)
    return np.array(frequencies)


def mscale(factor, scale):
    """`yarn_get_mscale` of the published modeling code."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def rotate(x, position, rope):
    """The vector x at a position: adjacent numbers are one complex number, turned."""
    turn = np.exp(1j * position * rope_frequencies(rope, len(x)))
    turned = (x[0::2] + 1j * x[1::2]) * turn
    out = np.stack([turned.real, turned.imag], axis=-1).reshape(len(x))
    return out * mscale(rope.factor, rope.mscale) / mscale(rope.factor, rope.mscale_all_dim)


def attention(x_TD, p, cfg, positions, segments):
    """V2 eq. 9-13 and 14-19: keys and values expanded, one head and query at a time."""
    nope, eps = cfg.attention.nope_dim, cfg.norm_eps
    scale = (cfg.attention.nope_dim + cfg.attention.rope_dim) ** -0.5
    scale *= mscale(cfg.rope.factor, cfg.rope.mscale_all_dim) ** 2
    latent = rms_norm(x_TD @ p.kv_a_DC, p.kv_norm_C, eps)
    k_rope = [rotate(x @ p.k_rope_DR, t, cfg.rope) for x, t in zip(x_TD, positions, strict=True)]
    q_latent = x_TD if p.q_a_DQ is None else rms_norm(x_TD @ p.q_a_DQ, p.q_norm_Q, eps)
    out = np.zeros_like(x_TD)
    for h in range(cfg.attention.heads):
        q, kv = q_latent @ p.q_b_QHX[:, h], latent @ p.kv_b_CHY[:, h]
        k, v = kv[:, :nope], kv[:, nope:]
        for t in range(len(x_TD)):
            q_rope = rotate(q[t, nope:], positions[t], cfg.rope)
            seen = [s for s in range(t + 1) if segments[s] == segments[t]]
            scores = [(q[t, :nope] @ k[s] + q_rope @ k_rope[s]) * scale for s in seen]
            weights = softmax(np.array(scores))
            value = sum(w * v[s] for w, s in zip(weights, seen, strict=True))
            out[t] += value @ p.out_HUD[h]
    return out


def scores(logits_E, router):
    return sigmoid(logits_E) if router.scoring == "sigmoid" else softmax(logits_E)


def route(logits_E, bias_E, router, given=None):
    """V3 section 2.1.2: {expert: gate} of one token. V2 scores a group by its best expert.
    given: the experts of a token that does not choose itself."""
    s = scores(logits_E, router)
    biased = s + bias_E
    size = router.experts // router.groups

    def group_score(g):
        best = sorted(biased[g * size : (g + 1) * size], reverse=True)
        return sum(best[:2]) if router.scoring == "sigmoid" else best[0]

    kept = sorted(range(router.groups), key=group_score, reverse=True)[: router.group_limit]
    allowed = [e for e in range(router.experts) if e // size in kept]
    chosen = sorted(allowed, key=lambda e: biased[e], reverse=True)[: router.active]
    chosen = chosen if given is None else given
    total = sum(s[e] for e in chosen) if router.renormalize else 1.0
    return {e: s[e] / total * router.scale for e in chosen}


def moe(x_TD, p, bias_E, cfg, valid, given=None):
    """V3 eq. 12-16. Returns (out, load, balance loss); only valid tokens count in the last two."""
    out = np.zeros_like(x_TD)
    load = np.zeros(cfg.router.experts, int)
    for t, x in enumerate(x_TD):
        mine = None if given is None else given[t]
        for e, gate in route(x @ p.router_DE, bias_E, cfg.router, mine).items():
            out[t] += gate * swiglu(x, p.gate_EDF[e], p.up_EDF[e], p.down_EFD[e])
            load[e] += bool(valid[t])
        if p.shared is not None:
            out[t] += swiglu(x, p.shared.gate_DF, p.shared.up_DF, p.shared.down_FD)
    counted = [scores(x @ p.router_DE, cfg.router) for x, v in zip(x_TD, valid, strict=True) if v]
    return out, load, balance_loss(counted, cfg.router)


def balance_loss(scores_TE, router):
    """V3 eq. 17-20 without alpha. As printed there, f counts the best of the bare scores:
    neither the selection bias nor the group limit enters."""
    T, loss = max(len(scores_TE), 1), 0.0
    for i in range(router.experts):
        times = sum(i in np.argsort(-s)[: router.active] for s in scores_TE)
        f = router.experts / (router.active * T) * times
        P = sum(s[i] / sum(s) for s in scores_TE) / T
        loss += f * P
    return loss


def updated_bias(bias_E, load_E, rate):
    """V3 section 2.1.2: less for an overloaded expert, more for an underloaded one."""
    mean = sum(load_E) / len(load_E)
    step = [rate if load < mean else -rate if load > mean else 0.0 for load in load_E]
    return bias_E + np.array(step)


def layer(x_TD, p, bias_E, cfg, positions, segments, given=None):
    """Returns (x, load, balance loss); the last two are None for a dense layer."""
    normed = rms_norm(x_TD, p.attention_norm_D, cfg.norm_eps)
    x_TD = x_TD + attention(normed, p.attention, cfg, positions, segments)
    normed = rms_norm(x_TD, p.ffn_norm_D, cfg.norm_eps)
    if bias_E is None:
        return x_TD + swiglu(normed, p.ffn.gate_DF, p.ffn.up_DF, p.ffn.down_FD), None, None
    out, load, balance = moe(normed, p.ffn, bias_E, cfg, np.asarray(segments) > 0, given)
    return x_TD + out, load, balance


def unstack(stack):
    n = 0 if stack is None else len(stack.attention_norm_D)
    return [jax.tree.map(lambda a, i=i: a[i], stack) for i in range(n)]


def sequence(weights, tokens_T, cfg, positions=None, segments=None, given=None):
    """One sequence through all layers: (hidden [T, D], loads, balance losses). given: of each MoE
    layer and token None, or its experts."""
    positions = range(len(tokens_T)) if positions is None else positions
    segments = [1] * len(tokens_T) if segments is None else segments
    x = weights.params.embed_VD[tokens_T]
    for p in unstack(weights.params.dense):
        x, _, _ = layer(x, p, None, cfg, positions, segments)
    loads, balances = [], []
    for i, p in enumerate(unstack(weights.params.moe)):
        mine = given and given[i]
        x, load, balance = layer(x, p, weights.router_bias_LE[i], cfg, positions, segments, mine)
        loads.append(load)
        balances.append(balance)
    return x, loads, balances


def forward(weights, tokens_BT, cfg, segments_BT=None):
    """(hidden [B, T, D], load [L, E], balance [L, B])."""
    rows = range(len(tokens_BT))
    segments = [None if segments_BT is None else segments_BT[b] for b in rows]
    out = [sequence(weights, tokens_BT[b], cfg, segments=segments[b]) for b in rows]
    hidden, loads, balances = zip(*out, strict=True)
    return np.stack(hidden), np.sum(loads, axis=0), np.stack(balances, axis=1)


def log_softmax_logits(weights, hidden, cfg, temperature=1.0, norm=None):
    """The final norm and the head: log-probabilities over the vocabulary."""
    p = weights.params
    head = p.embed_VD.T if p.head_DV is None else p.head_DV
    logits = rms_norm(hidden, p.norm_D if norm is None else norm, cfg.norm_eps) @ head
    logits = logits / temperature
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def mtp(weights, hidden_TD, tokens_T, cfg):
    """V3 eq. 21-23 for one sequence. A depth k: (log-probs of tokens k+1.. [T-k-1], load)."""
    out, h = [], hidden_TD
    for k, p in enumerate(weights.params.mtp, start=1):
        joined = [
            np.concatenate(
                [
                    rms_norm(
                        weights.params.embed_VD[tokens_T[i + k]], p.embed_norm_D, cfg.norm_eps
                    ),
                    rms_norm(h[i], p.hidden_norm_D, cfg.norm_eps),
                ]
            )
            for i in range(len(tokens_T) - k)
        ]
        bias_E = weights.router_bias_LE[cfg.moe_layers + k - 1]
        x, n = np.stack(joined) @ p.project_ED, len(joined)
        h, load, _ = layer(x, p.layer, bias_E, cfg, range(n), [1] * n)
        logp = log_softmax_logits(weights, h, cfg, norm=p.norm_D)
        out.append((np.array([logp[i, tokens_T[i + k + 1]] for i in range(n - 1)]), load))
    return out
