"""Meshes and batch splits, one after another, and the best of them."""

import dataclasses
from collections.abc import Callable, Iterator

from launch.planning.chips import Topology
from launch.planning.report import Report, gib, rate, took
from r1jax import sharding
from r1jax.checks import InputError
from r1jax.config import RunConfig

LONG = 16_384  # tokens of a row from which on devices may share one


def meshes(cfg: RunConfig, devices: int) -> list[str]:
    """All FSDPxEXPERT over so many devices whose experts divide; of models without experts, too,
    where the second axis splits heads, vocabulary and FFN; and of long rows, with rows split over
    2, 4, 8 or 16 devices."""
    experts = cfg.model.router.experts if cfg.model.router else devices
    tokens = cfg.sampling.max_prompt + cfg.sampling.max_tokens
    found = []
    for context in (1, 2, 4, 8, 16) if tokens >= LONG else (1,):
        rest = devices // context if devices % context == 0 else 0
        overs = [n for n in range(1, rest + 1) if rest % n == 0 and experts % n == 0]
        if context == 1:
            found += [f"{rest // over}x{over}" for over in overs]
        else:
            found += [f"fsdp={rest // over},expert={over},context={context}" for over in overs]
    return found


def splits(cfg: RunConfig, devices: int, job: str) -> list[int]:
    """Rows a device at once: 1, 2, 4, ... as many as an update has; only RL's are summed over."""
    if job != "grpo":
        return [1]
    replies = cfg.rl.questions * cfg.rl.group // cfg.rl.minibatches
    most = max(1, replies // devices)
    return [1 << k for k in range(4) if 1 << k <= most]


@dataclasses.dataclass(frozen=True)
class Try:
    mesh: str
    per_device: int
    report: Report | None
    trouble: str

    @property
    def rank(self) -> tuple[bool, float, float]:
        """The least is the best: what fits, the least time for a token if nothing is overlapped,
        then if all is."""
        r = self.report
        if r is None or r.time is None or not r.fits:
            return True, r.peak if r else float("inf"), 0.0
        return False, r.time.worst / r.tokens, r.time.best / r.tokens


def tries(
    cfg: RunConfig,
    where: Topology,
    job: str,
    one: Callable[[str, int], Report],
    only: str = "",
) -> Iterator[Try]:
    """Each as it is compiled. After a split that does not fit, no larger one of that mesh."""
    for mesh in [only] if only else meshes(cfg, where.devices):
        sizes = sharding.parse_mesh(mesh)
        for per_device in splits(cfg, where.devices // sizes[sharding.CONTEXT], job):
            try:
                found = one(mesh, per_device)
            except InputError as error:
                yield Try(mesh, per_device, None, str(error))
                break
            yield Try(mesh, per_device, found, found.trouble)
            if not found.fits:
                break


def line(t: Try) -> str:
    head = f"mesh {t.mesh:>8} {t.per_device} a device at once"
    r = t.report
    if r is None or r.time is None:
        return f"{head}  does not fit: {t.trouble}" if r else f"{head}  {t.trouble}"
    fits = "fits" if r.fits else "does not fit"
    return (
        f"{head}  {gib(r.peak):>10} {fits}  {took(r.time)}, {rate(r, r.time)}, "
        f"bound by {r.time.bound}"
    )
