"""Reading what a compiled program sends between devices."""

import math
import re


def collectives(hlo: str, op: str) -> list[tuple[int, str]]:
    """(elements of the largest result, replica groups) of every `op`, also of started ones."""
    found = []
    for result, attributes in re.findall(rf" = (.*?) {op}(?:-start)?\((.*)", hlo):
        shapes = [dims.split(",") for dims in re.findall(r"\w+\[([\d,]+)\]", result)]
        groups = attributes.split("replica_groups=")[1].split(", ")[0]
        found.append((max(math.prod(map(int, dims)) for dims in shapes), groups))
    return found


def largest(hlo: str) -> int:
    """Elements of the largest result of any collective; 0: there is none."""
    ops = "all-gather|all-reduce|reduce-scatter|(?:ragged-)?all-to-all|collective-permute"
    results = re.findall(rf" = (.*?) (?:{ops})(?:-start)?\(", hlo)
    shapes = [dims.split(",") for r in results for dims in re.findall(r"\w+\[([\d,]+)\]", r)]
    return max((math.prod(map(int, dims)) for dims in shapes), default=1 if results else 0)
