"""Plans of several models, machines, jobs and lengths, as the lines of one table."""

import itertools
import os
from collections.abc import Sequence

from launch.planning.chips import GIB
from launch.planning.report import Report, from_to
from r1jax.checks import check

LISTED = ("model", "topology", "job", "tokens")  # flags that may be several, by commas
CELL = 120  # characters of what went wrong
ALONE = ("--sweep", "--lengths", "--price", "--json")

HEAD = (
    "| model | topology | job | tokens | mesh | of a device's memory | FLOPs, x the formula "
    "| tokens/s at most | bound by |\n|---|---|---|---|---|---|---|---|---|"
)


def combinations(args: Sequence[str]) -> list[list[str]]:
    """The arguments of each plan; models change slowest, then topologies, jobs and tokens. Raises
    InputError for what is asked of one plan alone, where there are several."""
    rest, given = list(args), {}
    for name in LISTED:
        flag, at = f"--{name}", 0
        while at < len(rest):
            if rest[at] == flag and at + 1 < len(rest):
                rest[at : at + 2] = [f"{flag}={rest[at + 1]}"]
            if rest[at].startswith(f"{flag}="):
                value = rest.pop(at).partition("=")[2]
                given[flag] = [value] if os.path.isdir(value) else value.split(",")
                check(all(given[flag]), f"{flag}={value}: an empty name")
                continue
            at += 1
    found = [
        [*(f"{flag}={value}" for flag, value in zip(given, values, strict=True)), *rest]
        for values in itertools.product(*given.values())
    ]
    alone = [a.partition("=")[0] for a in rest if a.partition("=")[0] in ALONE]
    check(len(found) == 1 or not alone, f"{' and '.join(alone)}: of one plan, not of {len(found)}")
    return found


def line(asked: Sequence[str], mesh: str, found: Report | str) -> str:
    """Of one plan: what was asked for and came out, or why nothing did."""
    if isinstance(found, str):
        short = found if len(found) <= CELL else f"{found[:CELL]} ..."
        return _row([*asked, mesh, short, "", "", ""])
    size = f"{found.peak / GIB:.1f}" if found.peak else "more"
    memory = f"{size} of {found.has / GIB:.1f} GiB"
    if not found.fits:
        return _row([*asked, mesh, f"**{memory}**", "", "", "memory"])
    assert found.time is not None and found.compiled is not None
    t = found.time
    rate = from_to(f"{found.tokens / t.best:,.0f}", f"{found.tokens / t.worst:,.0f}")
    return _row([*asked, mesh, memory, f"{found.compiled / found.formula:.2f}", rate, t.bound])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
