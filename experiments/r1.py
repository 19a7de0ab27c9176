"""R1 whole: Zero, cold start, reasoning RL, rejection sampling, RL for all scenarios, students.

    python -m experiments.r1                               # the embedded world, in some minutes
    python -m experiments.r1 --resume                      # go on where it was stopped
    python -m experiments.r1 --until=cold_start            # then look at runs/r1/cold_start
    python -m experiments.r1 --from=cold_start --cold-start.data=FILE   # with rows of your own
    python -m experiments.r1 --ablations                   # also without what two stages brought
    python -m experiments.r1 --preset=paper --base=DIR --zero.data=... --until=zero --mesh=64x16

The stages are zero, cold_start, reasoning_rl, rejection_sft, all_scenarios, distill and evaluate
(`r1jax/pipeline/stages.py` says what each makes). Each leaves a folder in --out that its own
command would leave, and reads only what the ones before it left: another model or file in its place
is taken as it is. --from=STAGE begins there again; what that stage and those behind it had left is
moved to OUT/before. Every field of a stage's configuration is a flag: --zero.steps=80.
"""

import re

import jax

from experiments import cli
from r1jax.checks import check
from r1jax.pipeline import driver
from r1jax.pipeline.plan import R1Config
from r1jax.pipeline.presets import PRESETS

FLAGS: cli.Flags = {
    "from": ("STAGE", "begins with this stage, again if it is done"),
    "until": ("STAGE", "ends with this one"),
}


def main(args: list[str]) -> None:
    for arg in args:
        of_all = re.match(r"--[\w.-]+\.(out|mesh|seed|base|resume)(=|$)", arg)
        check(of_all is None, f"{arg}: the pipeline's is every stage's: --{of_all and of_all[1]}")
    first, last = cli.take(args, "--from") or "", cli.take(args, "--until") or ""
    if first and not cli.resumes(args):
        args.append("--resume=auto")  # with what it was started with, where it was
    default = cli.starting_config(PRESETS, "tiny", args)
    flags = {**cli.starting_flags(PRESETS), **FLAGS}
    cfg = cli.parse(R1Config, default, args, __doc__ or "", flags)

    def say(line: str) -> None:
        if jax.process_index() == 0:
            print(line, flush=True)

    driver.run(cfg, first, last, say)


if __name__ == "__main__":
    cli.run(main, trains=True)
