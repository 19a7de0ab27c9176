"""Writes the golden files: what Transformers makes of the models of families.py.

pip install -e '.[parity]' && python tests/parity/make_golden.py
"""

import tempfile
from pathlib import Path

import families
import numpy as np
import reference
import torch
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "golden"
PROMPTS, REPLY = (5, 11, 32), 64
CANDIDATES, DISTINCT = 32, 6


def prompts(family: str, model) -> dict[str, np.ndarray]:
    """A prompt of each length, and its greedy reply.

    The greedy path of a random model may pass a near-tie, where rounding decides. So of many
    prompts the one is kept whose reply was decided by the widest margin at its closest step, among
    those that do not merely repeat a few tokens.
    """
    rng = np.random.RandomState(len(family))
    found: dict[str, np.ndarray] = {}
    gaps = []
    for i, length in enumerate(PROMPTS):
        candidates = rng.randint(0, families.VOCAB, (CANDIDATES, length)).astype(np.int32)
        replies, gap_B = reference.greedy(model, candidates, REPLY)
        lively_B = np.array([len(set(reply)) >= DISTINCT for reply in replies.tolist()])
        assert lively_B.any(), f"{family}: all replies are of fewer than {DISTINCT} tokens"
        best = int(np.argmax(np.where(lively_B, gap_B, 0)))
        found |= {f"prompt_{i}": candidates[best], f"reply_{i}": replies[best]}
        gaps.append(gap_B[best])
    print(f"  closest step of the replies: {min(gaps):.1e} of the largest logit")
    return found


def main() -> None:
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for family, config in families.CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            model = reference.load(families.write(Path(folder) / family, config))
        tokens = families.row(family)
        load_LE = reference.load_LE(model, tokens)
        logits_TV = reference.logits(model, tokens)[0]
        used = f", experts used: {(load_LE > 0).sum(axis=1)}" if load_LE.size else ""
        print(f"{family}: largest logit {np.abs(logits_TV).max():.1f}{used}")
        values = {"logits_TV": logits_TV, "load_LE": load_LE} | prompts(family, model)
        values = {k: np.ascontiguousarray(v) for k, v in values.items() if v.size}
        save_file(values, GOLDEN / f"{family}.safetensors")


if __name__ == "__main__":
    main()
