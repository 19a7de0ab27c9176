"""The report of a run, finished or not: curves, figures and replies on one page.

    python -m experiments.report runs/r1_zero
    python -m experiments.report --run=runs/r1_zero
    python -m experiments.report runs/a runs/b           # one report each

Writes report.html and figures/*.png into the run's folder, from the files that are there. A run
writes its own when it ends; this is for one that is under way or was killed.
"""

from pathlib import Path

from experiments import cli
from r1jax.analysis.report import write_report
from r1jax.checks import check


def main(args: list[str]) -> None:
    args, runs = list(args), []
    while run := cli.take(args, "--run"):
        runs.append(run)
    runs += [arg for arg in args if not arg.startswith("-")]
    cli.reject([arg for arg in args if arg.startswith("-")], __doc__ or "")
    check(bool(runs), "a run's folder is needed: python -m experiments.report runs/r1_zero")
    for run in runs:
        print(f"report              {write_report(Path(run))}")


if __name__ == "__main__":
    cli.run(main)
