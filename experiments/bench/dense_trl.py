"""TRL's steps of what `experiments.bench.dense` compares, each timed from within its trainer."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.dense_task import (
    END,
    GROUP,
    LR,
    PAD,
    QUESTIONS,
    REPLY,
    VOCAB,
    random_prompts,
    text,
)


class TRL:
    """A trainer of the model in `folder`; `lengths`: mean tokens of a reply, of each step."""

    def __init__(self, folder: Path, bias: dict[int, float], steps: int):
        import datasets
        import tokenizers
        import torch
        import transformers
        import trl

        words = {f"w{i}": i for i in range(VOCAB)}
        core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=f"w{PAD}"))
        core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=core, eos_token=f"w{END}", pad_token=f"w{END}"
        )
        rng = np.random.default_rng(0)
        prompts = [text(tokens) for tokens in random_prompts(rng, QUESTIONS * steps)]
        self.lengths: list[float] = []

        def reward(completion_ids, **_: Any) -> list[float]:
            self.lengths.append(float(np.mean([len(c) for c in completion_ids])))
            return rng.random(len(completion_ids)).tolist()

        ends: dict[str, Any] = {"min_new_tokens": REPLY, "eos_token_id": END}
        if bias:
            ends = {"sequence_bias": {(END,): bias[END]}, "eos_token_id": END}
        self.trainer = trl.GRPOTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=reward,
            args=trl.GRPOConfig(
                output_dir=str(folder / "trl"),
                per_device_train_batch_size=QUESTIONS * GROUP,
                num_generations=GROUP,
                max_completion_length=REPLY,
                max_steps=steps,
                learning_rate=LR,
                beta=0.0,
                temperature=1.0,
                top_k=0,
                generation_kwargs=ends,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
        )

    def steps(self, between: Callable[[], None]) -> list[float]:
        """Seconds of each; `between` is called after each of them, and not counted."""
        import transformers

        took: list[float] = []

        class Clock(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.started = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                took.append(time.perf_counter() - self.started)
                between()

        self.trainer.add_callback(Clock())
        self.trainer.train()
        return took
