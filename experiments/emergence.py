"""Did reflection emerge? A verdict on logged rollouts, with controls, intervals and a page.

    python -m experiments.emergence runs/r1_zero --control=no_trace=runs/control
    python -m experiments.emergence runs/sweep                       # a folder of runs
    python -m experiments.emergence runs/a runs/b runs/c --control=random=runs/random
    python -m experiments.emergence trl_output/completions --format=trl
    python -m experiments.emergence rollouts/ --format=verl --out=report
    python -m experiments.emergence replies.jsonl --format=jsonl     # step, prompt, reply, correct

Runs that differ only in their seed are one configuration. A control is a run too: KIND is random,
format, shuffled, length (rewards that say nothing about answers), no_trace, no_update, supervised,
or a word of your own; left out, it is what the configuration of a run of this project says, else
random. A kind that the run's configuration says it is not is refused.

--detector=word|strict|context|event says what counts as reflection (event, where a reply can be
read by a grammar; else strict words). Writes report.html, figures and verdict.json to --out (the
first run's folder, or one beside the file, if it is left out), prints the verdict.
"""

import dataclasses
from pathlib import Path
from typing import cast

from experiments import cli
from r1jax.analysis.emergence import report
from r1jax.analysis.emergence.logs import FORMATS, Format, find_runs, read_log
from r1jax.analysis.emergence.measure import Reading, Run, denied, measure
from r1jax.analysis.emergence.rules import BLIND, Thresholds
from r1jax.analysis.emergence.table import DETECTORS, Detector
from r1jax.analysis.emergence.verdict import judge
from r1jax.checks import check, near

CONTROLS = (*BLIND, "no_trace", "no_update", "supervised")


def main(args: list[str]) -> None:
    args, controls = list(args), []
    while (control := cli.take(args, "--control")) is not None:
        kind, _, path = control.rpartition("=")
        check(bool(path), "--control= is empty: expected RUN or KIND=RUN")
        slip = "" if kind in CONTROLS else near(kind, CONTROLS)
        check(not slip, f"--control={control}: no kind is called {kind!r}{slip}")
        controls.append((kind, Path(path)))
    form = cli.take(args, "--format")
    check(
        form is None or form in FORMATS,
        f"--format={form}: expected one of {', '.join(FORMATS)}{near(str(form), FORMATS)}",
    )
    detector = cli.take(args, "--detector")
    check(
        detector is None or detector in DETECTORS,
        f"--detector={detector}: expected one of {', '.join(DETECTORS)}",
    )
    out = cli.take(args, "--out")
    paths = [Path(arg) for arg in args if not arg.startswith("-")]
    cli.reject([arg for arg in args if arg.startswith("-")], __doc__ or "")
    check(bool(paths), "a run is needed: python -m experiments.emergence runs/r1_zero")
    t = Thresholds()
    reading = Reading(cast(Detector | None, detector), t.sporadic, t.marked, t.sudden_width)

    seen: set[Path] = set()

    def read(path: Path, control: str | None = None) -> list[tuple[Path, Run]]:
        found = find_runs(path) if form in (None, "r1jax") else [path]
        for one in found:
            check(one.resolve() not in seen, f"{one} is given twice: a run counts once")
            seen.add(one.resolve())
        logs = [read_log(one, cast(Format | None, form)) for one in found]
        return [(one, measure(log, reading, control)) for one, log in zip(found, logs, strict=True)]

    runs = [run for path in paths for _, run in read(path)]
    others = [
        _as_control(run, f"--control={kind and f'{kind}='}{one}")
        for kind, path in controls
        for one, run in read(path, kind or None)
    ]
    if len(runs) > 1:  # a sweep holds its own controls
        others += [run for run in runs if run.control]
        runs = [run for run in runs if not run.control]
        check(bool(runs), "every run is a control: nothing to judge")
    runs = _told_apart(runs)
    verdicts = judge(runs, others, t)
    folder = Path(out) if out else _default(paths[0])
    title = ", ".join(dict.fromkeys(p.resolve().name for p in paths))
    page = report.write(verdicts, others, t, folder, title)
    for verdict in verdicts:
        for line in report.lines(verdict):
            print(line)
    print(f"report              {page}")


def _as_control(run: Run, flag: str) -> Run:
    """Of a kind that its configuration does not deny: random, where nothing says another."""
    kind = run.control or "random"
    says = denied(run.log, kind)
    check(not says, f"{flag}: its config.json says {says}")
    return dataclasses.replace(run, control=kind)


def _told_apart(runs: list[Run]) -> list[Run]:
    """Runs of one name get their seed, or their place, behind it."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return runs
    return [
        dataclasses.replace(
            run, log=dataclasses.replace(run.log, name=f"{run.name} {run.seed or i}")
        )
        for i, run in enumerate(runs, start=1)
    ]


def _default(path: Path) -> Path:
    """Where nothing of a run is overwritten."""
    return path / "emergence" if path.is_dir() else path.with_name(f"{path.stem}_emergence")


if __name__ == "__main__":
    cli.run(main)
