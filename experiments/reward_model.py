"""A reward model: helpfulness learned from pairs of replies, or safety from labelled ones.

    python -m experiments.reward_model                      # pairs made from countdown problems
    python -m experiments.reward_model --no-balance         # the same, and it learns that longer
                                                            # is better
    python -m experiments.reward_model --kind=pointwise     # labelled replies, read as a whole
    python -m experiments.reward_model --kind=pairwise --data=pairs.jsonl --tokenizer=... \
        --preset=small --mesh=2x4 --out=runs/helpful
    python -m experiments.reward_model --resume
    python -m experiments.reward_model --config=runs/reward_model/config.json --out=runs/again

A pair is a line {"prompt", "chosen", "rejected"}, and may have "judgements": [{"first": "chosen"
or "rejected", "gap"}, ...], where gap is by how much the judge preferred the reply it was shown
first. A labelled reply is a line {"prompt", "response", "safe"}. Every field of a preset is a
flag. The run leaves metrics.jsonl, TensorBoard events, config.json and checkpoints in --out, where
r1jax.reward_models.train.load_reward_model makes a reward component of it.
"""

import time

import jax

from experiments import cli
from r1jax import sharding
from r1jax.metrics import Row, moved, read_jsonl
from r1jax.model.params import weight_specs
from r1jax.models import first_weights, with_vocab
from r1jax.presets import REWARD_MODELS
from r1jax.reward_models.recipe import RewardModelConfig, read_data, reading
from r1jax.reward_models.train import train, updates


def summary(rows: list[Row]) -> list[str]:
    """What became of the run, from the first evaluation to the last."""
    shown = {
        "accuracy": "heldout/accuracy",
        "chosen is longer": "heldout/accuracy/chosen_longer",
        "chosen is shorter": "heldout/accuracy/chosen_shorter",
    }
    lines = []
    for name, key in shown.items():
        if values := moved(rows, key, "{:.1%}"):
            lines.append(f"held-out {name:<18} {values}")
    last = next(row for row in reversed(rows) if row.get("heldout/margin") is not None)
    lines.append(f"held-out margin             {last['heldout/margin']:.2f}")
    lines.append(f"reward x length correlation {last['heldout/length/correlation']:.2f}")
    return lines


def main(args: list[str]) -> None:
    started = time.perf_counter()
    named = cli.take(list(args), "--preset") or ""
    preset = f"tiny_{cli.take(list(args), '--kind')}"
    default = cli.starting_config(
        REWARD_MODELS, preset if preset in REWARD_MODELS else "tiny_pairwise", args
    )
    cfg = cli.parse(
        RewardModelConfig, default, args, __doc__ or "", cli.starting_flags(REWARD_MODELS)
    )
    tokenizer, _ = reading(cfg)
    cfg = with_vocab(cfg, tokenizer.vocab_size)
    mesh = sharding.make_mesh(cfg.mesh)
    data = read_data(cfg)
    print(
        f"reward model, {cfg.kind}, reads the {cfg.reads}: "
        f"{sharding.count(weight_specs(cfg.model).params):,} parameters, {data.said}, mesh "
        f"{cfg.mesh}, {updates(cfg, len(data.train))} updates of {cfg.batch}"
    )
    run = train(
        cfg,
        data,
        mesh,
        lambda: first_weights(cfg.base, cfg.model, mesh, cfg.seed),
        preset=named,
    )
    if jax.process_index() == 0:
        for line in summary(read_jsonl(run.out / "metrics.jsonl")):
            print(line)
        print(f"time                        {time.perf_counter() - started:.0f} s")
    run.check_ended()


if __name__ == "__main__":
    cli.run(main, trains=True)
