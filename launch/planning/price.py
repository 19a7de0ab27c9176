"""A whole iteration of RL out of its parts: weights laid out for sampling, prompts read, replies
drawn by continuous batching, updates made; and what that costs.

The parts' times are rooflines', so a price is the least it can be. Graders run on the hosts, beside
what comes next, and are not in it.
"""

import dataclasses
import heapq
import math
from collections.abc import Sequence
from statistics import NormalDist

from launch.planning.jobs import longest
from launch.planning.report import Report, from_to, gib, seconds
from r1jax.checks import InputError, check
from r1jax.config import RunConfig
from r1jax.data.packing import best_fit
from r1jax.rl.types import Layout
from r1jax.sampling.slots import WINDOW

SPREAD = 0.7  # of the logarithm of lengths: of three replies one is over twice the median


def lengths(text: str, most: int, count: int) -> list[int]:
    """`count` lengths of replies, evenly over a log-normal distribution: MEAN or MEAN:SPREAD in
    tokens, cut at `most`, with that mean before it is cut. Raises InputError for anything else."""
    try:
        mean, _, spread = text.partition(":")
        mu, sigma = float(mean), float(spread or SPREAD)
    except ValueError:
        raise InputError(
            f"--lengths={text}: expected MEAN or MEAN:SPREAD, such as 8000:0.7"
        ) from None
    check(
        0 < mu <= most and 0 <= sigma < 5,
        f"--lengths={text}: expected a mean above 0 and of at most {most} tokens (a reply's most), "
        "and a spread below 5",
    )
    if sigma == 0:
        return [round(mu)] * count
    middle = math.log(mu) - sigma**2 / 2
    normal = NormalDist(middle, sigma)
    drawn = (math.exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count))
    return [max(1, min(most, round(n))) for n in drawn]


def steps_of(replies: Sequence[int], slots: int) -> int:
    """Decoding steps until all are drawn, each taking a free slot in its turn."""
    free = [0] * min(slots, len(replies))
    for n in replies:
        heapq.heappush(free, heapq.heappop(free) + n)
    return max(free)


@dataclasses.dataclass(frozen=True)
class Iteration:
    """Seconds, at best and at worst (`Roofline`)."""

    reshard: tuple[float, float]
    prefill: tuple[float, float]
    decode: tuple[float, float]
    update: tuple[float, float]
    steps: int  # of decoding
    tokens: int  # sampled
    updates: int
    assumed: str

    @property
    def seconds(self) -> tuple[float, float]:
        parts = self.reshard, self.prefill, self.decode, self.update
        return sum(p[0] for p in parts), sum(p[1] for p in parts)

    def hours(self, iterations: float) -> tuple[float, float]:
        best, worst = self.seconds
        return best * iterations / 3600, worst * iterations / 3600


def iteration(
    cfg: RunConfig,
    text: str,
    devices: int,
    layout: Layout,
    parts: dict[str, Report],
    update: Report,
) -> Iteration:
    """Of compiled parts: reshard, prefill, decode. text: `lengths`. layout: of the update, which
    was counted with all micro-batches filled."""
    sampling, rl = cfg.sampling, cfg.rl
    replies = lengths(text, sampling.max_tokens, rl.questions * rl.group)
    # In no order: a stride that is prime to their number mixes long and short.
    stride = next(k for k in range(int(len(replies) * 0.618) | 1, 2 * len(replies) + 2)
                  if math.gcd(k, len(replies)) == 1)  # fmt: skip
    mixed = [replies[i * stride % len(replies)] for i in range(len(replies))]
    slots = devices * -(-sampling.slots // devices)
    steps = steps_of(mixed, slots)
    at_once = devices * -(-sampling.refill // devices)
    # A prompt is read once on each device that has replies to it; at best on one.
    reads = math.ceil(rl.questions / at_once)
    turns = filled(mixed, sampling.max_prompt, layout)

    def times(report: Report, n: float) -> tuple[float, float]:
        assert report.time is not None, report.program
        return n * report.time.best, n * report.time.worst

    middle, mean = replies[len(replies) // 2], sum(replies) / len(replies)
    assumed = (
        f"{rl.questions} questions x {rl.group} replies, lengths log-normal: median {middle:,}, "
        f"mean {mean:,.0f}, longest {max(replies):,}; prompts of {sampling.max_prompt:,}; {slots} "
        f"slots, filled again as they come free; every decoding step over a cache of "
        f"{longest(cfg):,}; updates of {turns} micro-batches, of {layout.updates} x "
        f"{layout.microbatches} if all replies were the longest; each part at its roofline; "
        "graders, checkpoints and evaluation not in it"
    )
    return Iteration(
        times(parts["reshard"], 1), times(parts["prefill"], reads),
        times(parts["decode"], steps / WINDOW),
        times(update, turns / (layout.updates * layout.microbatches)), steps, sum(replies),
        rl.minibatches, assumed,
    )  # fmt: skip


def filled(replies: Sequence[int], prompt: int, layout: Layout) -> int:
    """Micro-batches that hold anything, of all updates, packed as the trainer packs them."""
    each, turns = len(replies) // layout.updates, 0
    for m in range(layout.updates):
        mine = [prompt + n for n in replies[m * each : (m + 1) * each]]
        rows, _ = best_fit(mine, layout.length)
        turns += -(-len(rows) // layout.rows)
    return turns


def priced(it: Iteration, devices: int, price: float, cfg: RunConfig) -> list[tuple[str, str]]:
    """Rows of a table. price: of a device-hour; 0: not known."""

    def both(values: tuple[float, float], digits: str = ",.1f") -> str:
        return from_to(*(f"{value:{digits}}" for value in values))

    def took(values: tuple[float, float]) -> str:
        return from_to(*map(seconds, values))

    drawn = it.tokens / it.decode[0], it.tokens / it.decode[1]
    run = it.hours(cfg.steps)
    rows = [
        ("assumes", it.assumed),
        ("rollout", f"{it.tokens:,} tokens in {it.steps:,} steps: {took(it.decode)} "
                    f"({both(drawn, ',.0f')} tokens/s)"),
        ("prompts read", took(it.prefill)),
        ("weights laid out", took(it.reshard)),
        (f"{it.updates} updates", took(it.update)),
        ("an iteration", f"{took(it.seconds)}, of which the rollout "
                         f"{it.decode[0] / it.seconds[0]:.0%}"),
        ("1,000 rollouts", f"{both(it.hours(1000))} hours on {devices} devices"),
        ("1,000 updates", f"{both(it.hours(1000 / it.updates))} hours"),
        (f"a run of {cfg.steps:,} rollouts", f"{both(run)} hours"),
    ]  # fmt: skip
    if price:
        hour = devices * price
        cost = run[0] * hour, run[1] * hour
        each = hour / 3600 / it.tokens * 1e6
        million = it.decode[0] * each, it.decode[1] * each
        rows += [
            ("costs", f"{both(cost, ',.0f')} at {price:g} a device-hour"),
            ("a million sampled tokens", both(million, ",.3f")),
        ]  # fmt: skip
    return rows


def together(update: Report, decode: Report) -> tuple[str, str]:
    """What is on a device while replies are drawn: the state in training stays there."""
    kept = sum(size for name, size in update.holds.items() if name != "batch")
    peak = kept + decode.peak
    fits = "fits" if peak <= decode.has else "does not fit"
    return "peak while sampling", f"{gib(peak)} of {gib(decode.has)}, state included: {fits}"
