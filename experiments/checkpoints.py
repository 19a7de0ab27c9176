"""The checkpoints of a run: listed, verified, pruned.

    python -m experiments.checkpoints runs/r1_zero
    python -m experiments.checkpoints runs/r1_zero --verify          # reads every file
    python -m experiments.checkpoints runs/r1_zero --prune=newest:2,every:100,best:heldout/accuracy

--prune=RULES removes what no rule keeps: `newest:N`; `every:M`, those of every so many steps;
`best:METRIC`, by a column of metrics.jsonl (`best:-nll`: the lowest). Damaged ones are kept by no
rule. While a run is under way in the folder nothing is pruned. --verify ends with exit code 2 if
one is damaged or there is none; those written without checksums are `unchecked`.
"""

import datetime
from pathlib import Path
from typing import NamedTuple

from etils import epath

from experiments import cli
from r1jax import manifest, stored
from r1jax.checkpoint import Keep
from r1jax.checks import check
from r1jax.lock import locked
from r1jax.metrics import read_jsonl


class Found(NamedTuple):
    """A checkpoint on disk. size: bytes."""

    step: int
    folder: epath.Path
    written: datetime.datetime
    size: int
    files: int


def found_in(run: Path) -> list[Found]:
    """Those that are complete, by step. Raises InputError where there is no such folder."""
    folder, found = stored.of(run), []
    steps = stored.steps(folder)
    check(bool(steps) or folder.is_dir(), f"{run}: no checkpoints in this folder")
    with stored.reaching(folder):
        for step in steps:
            files = [one.stat() for one in manifest.files_in(folder / str(step))]
            size = sum(one.length for one in files)
            written = datetime.datetime.fromtimestamp(max(one.mtime for one in files))
            found.append(Found(step, folder / str(step), written, size, len(files)))
    return found


def rules(text: str, run: Path) -> Keep:
    """Of "newest:2,every:100,best:heldout/accuracy". Raises InputError."""
    newest, every, best = 0, 0, ""
    for part in text.split(","):
        name, _, value = part.partition(":")
        number = value.isdigit() and int(value) > 0
        ok = number if name in ("newest", "every") else name == "best" and bool(value)
        check(ok, f"--prune={part}: expected newest:N, every:M or best:METRIC")
        if name == "newest":
            newest = int(value)
        elif name == "every":
            every = int(value)
        else:
            best = value
    values = values_of(run, best) if best else {}
    return Keep(newest, every, lambda: values)


def values_of(run: Path, metric: str) -> dict[int, float]:
    """A metric by step, negated where `metric` begins with "-". Raises InputError if it is never
    there."""
    log, name = run / "metrics.jsonl", metric.removeprefix("-")
    rows = read_jsonl(log) if log.exists() else []
    found = {row["step"]: row[name] for row in rows if row.get(name) is not None}
    check(bool(found), f"--prune=best:{metric}: {log} has no {name}")
    return {step: -value if metric != name else value for step, value in found.items()}


def main(args: list[str]) -> None:
    args = list(args)
    prune, verify = cli.take(args, "--prune"), "--verify" in args
    folders = [arg for arg in args if not arg.startswith("-")]
    cli.reject([a for a in args if a.startswith("-") and a != "--verify"], __doc__ or "")
    check(len(folders) == 1, "expected the folder of one run")
    run = Path(folders[0])
    found = found_in(run)
    states = {one.step: manifest.damage(one.folder) for one in found} if verify or prune else {}
    whole = [one.step for one in found if states.get(one.step, ("", ""))[0] != "damaged"]
    stays = rules(prune, run).stays(whole) if prune else {}
    check(bool(stays) or not (prune and found), f"--prune={prune} would remove every checkpoint")
    for one in found:
        state, wrong = states.get(one.step, ("", ""))
        told = f"{state}: {wrong}" if wrong else state
        kept = stays.get(one.step, "removed") if prune else ""
        print(
            f"step {one.step:>7}  {one.written:%Y-%m-%d %H:%M}  {_size(one.size):>9}  "
            f"{one.files:>4} files  {'  '.join(filter(None, (told, kept)))}".rstrip()
        )
    none = f"{run}: no complete checkpoint"
    check(bool(found) or not verify, none)
    if not found:
        print(none)
    if prune:
        with locked(run):
            for one in found:
                if one.step not in stays:
                    stored.remove(one.folder)
    wrong_ones = [step for step, (state, _) in states.items() if state == "damaged"]
    removed = set(wrong_ones) - set(stays) if prune else set()
    left = [step for step in wrong_ones if step not in removed]
    check(not left, f"{run}: damaged: step {', '.join(map(str, left))}")


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


if __name__ == "__main__":
    cli.run(main)
