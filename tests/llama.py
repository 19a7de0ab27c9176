"""A Llama in plain NumPy and float64, one token at a time: an oracle for real checkpoints."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy


class Llama:
    """Reads a Hugging Face directory; `feed` gives the logits after each token."""

    def __init__(self, folder: Path):
        self.cfg = json.loads((folder / "config.json").read_text())
        tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        self.w = {name.removeprefix("model."): np.float64(a) for name, a in tensors.items()}
        self.keys = [[] for _ in range(self.cfg["num_hidden_layers"])]
        self.values = [[] for _ in self.keys]

    def feed(self, token: int) -> np.ndarray:
        heads, kv = self.cfg["num_attention_heads"], self.cfg["num_key_value_heads"]
        x, position = self.w["embed_tokens.weight"][token], len(self.keys[0])
        for i in range(len(self.keys)):
            p = f"layers.{i}."
            y = self._norm(x, p + "input_layernorm")
            q, k, v = (self._linear(y, f"{p}self_attn.{n}_proj") for n in "qkv")
            q, k, v = q.reshape(heads, -1), k.reshape(kv, -1), v.reshape(kv, -1)
            self.keys[i].append(self._turned(k, position))
            self.values[i].append(v)
            q = self._turned(q, position)
            parts = []
            for h in range(heads):
                keys = np.array(self.keys[i])[:, h * kv // heads]
                score = keys @ q[h] / np.sqrt(q.shape[1])
                weight = np.exp(score - score.max())
                parts.append(weight / weight.sum() @ np.array(self.values[i])[:, h * kv // heads])
            x = x + self._linear(np.concatenate(parts), p + "self_attn.o_proj")
            y = self._norm(x, p + "post_attention_layernorm")
            gate, up = (self._linear(y, f"{p}mlp.{n}_proj") for n in ("gate", "up"))
            x = x + self._linear(gate / (1 + np.exp(-gate)) * up, p + "mlp.down_proj")
        head = self.w.get("lm_head.weight", self.w["embed_tokens.weight"])
        return head @ self._norm(x, "norm")

    def _linear(self, x, name):
        return self.w[f"{name}.weight"] @ x

    def _norm(self, x, name):
        return x / np.sqrt(np.mean(x**2) + self.cfg["rms_norm_eps"]) * self.w[f"{name}.weight"]

    def _turned(self, x, position):
        half = x.shape[1] // 2
        angle = position * self.cfg["rope_theta"] ** (-np.arange(half) / half)
        a, b = x[:, :half], x[:, half:]
        return np.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=1
        )


def greedy(folder: Path, prompt: list[int], count: int, stop: frozenset[int]) -> list[int]:
    """The tokens that come after the prompt, the one that stops them included."""
    model, reply = Llama(folder), []
    for token in prompt:
        logits = model.feed(token)
    while len(reply) < count and not (reply and reply[-1] in stop):
        reply.append(int(logits.argmax()))
        logits = model.feed(reply[-1])
    return reply
