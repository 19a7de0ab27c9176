"""How long a compiled program takes at least, and what bounds it.

Three times: products at the chip's peak for their type, reads and writes at its memory's bandwidth,
and what is received at its links'. At best all three go on at once, over all links; if nothing is
overlapped, what is sent waits for the rest, over one axis of the torus. Nothing is assumed of
latencies, of vector units, or of how near to its peak a product comes: real times are longer.
"""

import collections
import dataclasses
from collections.abc import Sequence

from launch.planning.chips import Chip
from launch.planning.movement import Sent
from launch.planning.products import Kernel, Product

ASSUMPTIONS = (
    "best: products at peak, HBM at its bandwidth and links all at once; "
    "worst: collectives wait for the rest, over one axis of the torus; no latencies"
)


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a run."""

    products: float
    hbm: float
    sent: dict[str, float]  # by axis of the mesh, over all links
    sent_slow: float  # all, over one axis

    @property
    def best(self) -> float:
        return max(self.products, self.hbm, sum(self.sent.values()))

    @property
    def worst(self) -> float:
        return max(self.products, self.hbm) + self.sent_slow

    @property
    def bound(self) -> str:
        """What takes the longest."""
        sent = sum(self.sent.values())
        if sent > max(self.products, self.hbm):
            axis = max(self.sent, key=lambda name: self.sent[name])
            return f"collectives, most along {axis}"
        return "products" if self.products >= self.hbm else "HBM bandwidth"


def roofline(
    chip: Chip,
    multiplied: Sequence[Product],
    called: Sequence[Kernel],
    hbm: float,
    sent: Sequence[Sent],
) -> Roofline:
    seconds = sum(p.flops / chip.rate(p.dtype, p.highest) for p in multiplied)
    seconds += sum((k.flops or 0) / chip.rate(k.dtype) for k in called)
    by_axis: dict[str, float] = collections.defaultdict(float)
    slow = 0.0
    for s in sent:
        by_axis[s.axes] += s.bytes / (chip.network if s.outside else chip.links)
        slow += s.bytes / (chip.network if s.outside else chip.one_axis)
    return Roofline(seconds, hbm / chip.hbm, dict(by_axis), slow)
