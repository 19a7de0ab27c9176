"""Transformers' side of the comparison: needs the parity extra."""

from pathlib import Path

import numpy as np
import torch
import transformers

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def load(folder: Path) -> transformers.PreTrainedModel:
    """The model of a directory, to run in float32. Asserts that the directory holds exactly its
    parameters."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    wrong = {kind: keys for kind, keys in info.items() if keys}
    assert not wrong, f"{folder}: {wrong}"
    return model.eval()


@torch.no_grad()
def logits(model, tokens_BT: np.ndarray, positions_BT: np.ndarray | None = None) -> np.ndarray:
    """[B, T, V] float32. Positions may jump: the mask of ones keeps a row one sequence."""
    tokens = torch.tensor(tokens_BT)
    positions = None if positions_BT is None else torch.tensor(positions_BT)
    out = model(tokens, position_ids=positions, attention_mask=torch.ones_like(tokens))
    return out.logits.numpy()


@torch.no_grad()
def load_LE(model, tokens_BT: np.ndarray) -> np.ndarray:
    """How many tokens each expert of each MoE layer is given; empty where there are none."""
    counts: list[np.ndarray] = []

    def count(module, _inputs, outputs):
        counts.append(np.bincount(outputs[2].flatten().numpy(), minlength=module.num_experts))

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if type(module).__name__.endswith("TopkRouter")
    ]
    model(torch.tensor(tokens_BT))
    for hook in hooks:
        hook.remove()
    return np.array(counts, np.int32)


@torch.no_grad()
def greedy(model, prompts_BT: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row's continuation by `generate`, [B, tokens] int32, and the least gap between the two
    largest logits that it was decided by, as a part of the row's largest logit, [B]."""
    prompts = torch.tensor(prompts_BT, dtype=torch.long)
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits_BTV = torch.stack(out.logits, dim=1)
    best = logits_BTV.topk(2).values
    gap_B = (best[..., 0] - best[..., 1]).amin(dim=1) / logits_BTV.abs().amax(dim=(1, 2))
    return out.sequences[:, prompts.shape[1] :].numpy().astype(np.int32), gap_B.numpy()
