"""R1-Zero: a base model, a rule that says right or wrong, and nothing else.

    python -m experiments.r1_zero                                # embedded model and task
    python -m experiments.r1_zero --mesh=8x8                     # FSDP x expert parallel
    python -m experiments.r1_zero --resume                       # go on where it was stopped
    python -m experiments.r1_zero --task=gsm8k --data=train.jsonl --tokenizer=tokenizer.json
    python -m experiments.r1_zero --data=gsm8k=train.jsonl:3,math=math.jsonl:1 --tokenizer=...
    python -m experiments.r1_zero --model=DIR                    # a Hugging Face directory
    python -m experiments.r1_zero --model=org/name[@revision]    # a model on its Hub
    python -m experiments.r1_zero --task=gym --data=leg_counting --tokenizer=... # reasoning-gym
    python -m experiments.r1_zero --reward=mine.py:function      # a reward of your own
    python -m experiments.r1_zero --reward.models=helpful=runs/reward_model:0.5
    python -m experiments.r1_zero --preset=tiny_dapo --seed=1 --out=runs/dapo
    python -m experiments.r1_zero --config=runs/r1_zero/config.json --out=runs/again

--data is FILE, or [TASK=]FILE[:WEIGHT],... of the forms in `r1jax/data/sources.py`: files are drawn
from by weight, or are one pool where they have none.

Presets are complete configurations (`r1jax/presets.py`); every field of one is a flag. --model is a
Hugging Face directory or an id on its Hub, or the folder of another run, to start from: its
weights, its configuration and its tokenizer; without a task, it is trained to use given words in a
story. The run leaves metrics.jsonl, samples.jsonl, figures, TensorBoard events, checkpoints and
report.html in --out.

With --resume a run goes on with the configuration that it was started with, whether its flags are
given again or not; other flags, and the fields in --config=FILE, change it, and what differs is
printed. --preset must be the one that it was started with.
"""

from experiments import cli
from r1jax.checks import check
from r1jax.config import RunConfig, tiers_of
from r1jax.data.tasks import make_task
from r1jax.models import from_model
from r1jax.pipeline.reinforcement import reinforce
from r1jax.presets import RUNS

FLAGS: cli.Flags = {
    "model": ("DIR|org/name", "sets base, model, tokenizer and conversation to those found there"),
    "reward": ("FILE.py:FUNCTION", "the same as --reward.own"),
}


def tiers_unread(cfg: RunConfig) -> str:
    """A warning where problems are asked that the embedded base has read none of, else ""."""
    made = cfg.base in ("embedded", "train") and cfg.task == "countdown" and not cfg.data
    asked = tiers_of(cfg.tiers, "RunConfig.tiers")
    read = tiers_of(cfg.corpus.tiers, "CorpusConfig.tiers")
    new = ",".join(str(tier) for tier in asked if tier not in read)
    return (
        f"warning: --tiers={cfg.tiers}: the base has read no problem of {new} numbers "
        f"(--corpus.tiers={cfg.corpus.tiers}), so it may solve none; for one that has, "
        f"--base=train --corpus.tiers={cfg.tiers}"
        if made and new
        else ""
    )


def _default_preset(args: list[str]) -> str:
    """The embedded model knows a few dozen words; another tokenizer needs another model."""

    def given(flag: str) -> str | None:
        return cli.take(list(args), flag)

    task = given("--task") or ("stories" if given("--model") and not given("--data") else "")
    if task == "stories":
        return "stories"
    return "small" if given("--tokenizer") or given("--model") else "tiny"


def main(args: list[str]) -> None:
    preset, folder = _default_preset(args), cli.take(args, "--model")
    own = cli.take(args, "--reward")
    if own is not None:
        twice = any(arg.split("=")[0] == "--reward.own" for arg in args)
        check(not twice, "--reward and --reward.own are the same: give one, with commas")
        check(bool(own), "--reward= is empty: expected FILE.py:FUNCTION")
        args.append(f"--reward.own={own}")
    named = cli.take(list(args), "--preset") or ""
    default = cli.starting_config(RUNS, preset, args)
    if folder:
        default = from_model(default, folder, resumes=cli.resumes(args))
    cfg = cli.parse(RunConfig, default, args, __doc__ or "", {**cli.starting_flags(RUNS), **FLAGS})
    if warning := tiers_unread(cfg):
        print(warning)
    reinforce(cfg, make_task(cfg), preset=named, name="R1-Zero")


if __name__ == "__main__":
    cli.run(main, trains=True)
