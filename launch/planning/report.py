"""What is said of a compiled program: memory, FLOPs, bytes, what bounds it; as a table, as JSON."""

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from launch.planning import hlo, movement, products
from launch.planning.chips import GIB, Topology
from launch.planning.jobs import Program
from launch.planning.roofline import ASSUMPTIONS, Roofline, roofline
from launch.planning.targets import OutOfMemory
from r1jax.config import RunConfig

TOP = 5  # sources of FLOPs, large arrays and collectives that are named


@dataclasses.dataclass(frozen=True)
class Report:
    """Of a program, a device. Bytes, FLOPs and seconds of one run of it (an update of all replies,
    a burst of decoding). What only a compiled program tells is None where none was made."""

    program: str
    topology: str
    mesh: str
    devices: int
    fits: bool
    has: float  # bytes
    peak: float  # 0: unknown
    holds: dict[str, float]
    temporaries: float | None
    formula: float
    tokens: float  # of all devices
    host: float
    notes: tuple[str, ...]
    trouble: str = ""  # why it does not fit, and what would help
    compiled: float | None = None  # FLOPs, kernels' included where they are known
    kernels: tuple[products.Kernel, ...] = ()
    sources: tuple[tuple[str, float], ...] = ()  # what most FLOPs are of
    sent: dict[tuple[str, str], tuple[float, float]] = dataclasses.field(default_factory=dict)
    hbm: float | None = None
    largest: tuple[tuple[float, str, str], ...] = ()
    time: Roofline | None = None
    peak_flops: float = 0.0  # a second
    seconds: float = 0.0  # that compiling took

    def mfu(self, seconds: float) -> float:
        return self.formula / (seconds * self.peak_flops) if seconds else 0.0


def plan(program: Program, cfg: RunConfig, where: Topology) -> Report:
    """Compiles it and reads what came out."""
    chip, mesh = where.chip, program.mesh
    shared: dict[str, Any] = {
        "program": program.name, "topology": where.text, "mesh": cfg.mesh, "devices": mesh.size,
        "has": chip.memory, "holds": program.holds, "formula": program.flops / mesh.size,
        "tokens": program.tokens, "notes": program.notes, "peak_flops": chip.bfloat16,
    }  # fmt: skip
    try:
        made = program.compile(where)
    except OutOfMemory as error:
        held = sum(program.holds.values())
        peak = max(error.needed, held)
        needed = error.needed or held
        return Report(
            **shared, fits=False, peak=peak, temporaries=None, host=program.host,
            trouble=_trouble(program, cfg, needed, error.has or chip.memory, error.largest),
            largest=tuple(error.largest[:TOP]),
        )  # fmt: skip
    m = made.memory
    peak = (
        m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
        + m.temp_size_in_bytes + m.generated_code_size_in_bytes
    )  # fmt: skip
    module = hlo.parse(made.text)
    seen = hlo.visits(module, program.turns, program.named)
    multiplied = products.products(seen)
    called = products.kernels(module, seen)
    sent = movement.collectives(seen, dict(mesh.shape), chip.host if chip.kind == "gpu" else 0)
    hbm, large = movement.hbm_bytes(module, seen), movement.largest(seen, TOP)
    by_source: dict[str, float] = collections.defaultdict(float)
    for p in multiplied:
        by_source[label(p.source)] += p.flops
    for k in called:
        by_source[k.name] += k.flops or 0
    best = sorted(((n, f) for n, f in by_source.items() if f), key=lambda one: -one[1])
    fits = peak <= chip.memory
    trouble = "" if fits else _trouble(program, cfg, peak, chip.memory, large)
    return Report(
        **shared, fits=fits, peak=peak, temporaries=float(m.temp_size_in_bytes), trouble=trouble,
        compiled=sum(by_source.values()), kernels=tuple(called), sources=tuple(best[:TOP]),
        sent=movement.by_axis(sent), hbm=hbm, largest=tuple(large),
        time=roofline(chip, multiplied, called, hbm, sent), seconds=made.seconds,
        host=program.host + sum(getattr(m, f"host_{part}_size_in_bytes")
                                for part in ("argument", "output", "temp")),
    )  # fmt: skip


_DULL = re.compile(
    r"jit\(\w*\)|while|body|closed_call|shard_map|cond|branch_\d+_fun|checkpoint|"
    r"rematted_computation|(transpose\()?jvp\(\)\)?"
)


def label(source: str) -> str:
    """What was traced, without the loops around it; said to be of a backward pass, or again, where
    it is computed a second time for that."""
    parts = source.split("/")
    again = "rematted_computation" in parts
    backward = not again and any(p.startswith("transpose(") for p in parts)
    kept = [p for p in parts if not _DULL.fullmatch(p)]
    kept = [re.sub(r"^(?:transpose\()?jvp\((.*?)\)+$", r"\1", p) for p in kept]
    name = "/".join(kept) or "without a name (such as a ragged product's gradient)"
    return name + " (backward)" * backward + " (again)" * again


def _trouble(
    program: Program,
    cfg: RunConfig,
    needed: float,
    has: float,
    large: list[tuple[float, str, str]],
) -> str:
    """One line: by how much, what is largest, what would help."""
    named = ", ".join(
        f"{size / GIB:.2f} GiB {shape} {label(source) if source else ''}".rstrip()
        for size, shape, source in large[:3]
    )
    over = f"needs {needed / GIB:.1f} GiB of {has / GIB:.1f}"
    largest = f"; largest: {named}" if named else ""
    return f"out of memory: {over}{largest}; {_help(program, cfg, needed, has)}"


def _help(program: Program, cfg: RunConfig, needed: float, has: float) -> str:
    """What makes it smaller, of what is not yet done."""
    model, mesh, held = cfg.model, program.mesh, sum(program.holds.values())
    ways = []
    if held > 0.8 * has:
        ways.append("more devices")
        if program.name in ("grpo_step", "sft_step"):
            if mesh.shape["fsdp"] < mesh.size:
                ways.append(f"--mesh={mesh.size}x1 (nothing held twice)")
            if cfg.optim.moments == "float32":
                ways.append("--optim.moments=bfloat16")
        if program.name.startswith("decode"):
            ways.append(f"fewer --sampling.slots than {cfg.sampling.slots}")
            if model.router and mesh.shape["expert"] < mesh.size:
                ways.append("a wider expert axis")
    if needed > held + 0.1 * has and program.name in ("grpo_step", "sft_step"):
        if model.remat != "full":
            ways.append("--model.remat=full")
        if not model.logits_chunk:
            ways.append("--model.logits-chunk=512")
        if program.name == "grpo_step" and cfg.rl.rows > mesh.size:
            ways.append(f"--rl.rows={mesh.size} (one row a device at once)")
        ways.append("fewer --tokens")
    return "would help: " + (", ".join(ways) or "more devices, or fewer --tokens")


def gib(size: float) -> str:
    for unit, name in ((GIB, "GiB"), (2.0**20, "MiB")):
        if size >= 0.1 * unit:
            return f"{size / unit:,.2f} {name}"
    return f"{size / 2**10:.1f} KiB"


def table(r: Report) -> str:
    """What a person reads."""
    rows: list[tuple[str, str]] = []
    rows += [(name, gib(size)) for name, size in r.holds.items()]
    if r.temporaries is not None:
        rows.append(("temporaries", gib(r.temporaries)))
    peak = f"{gib(r.peak)} of {gib(r.has)}" if r.peak else f"unknown, of {gib(r.has)}"
    rows.append(("peak", f"{peak}: {'fits' if r.fits else 'does not fit'}"))
    if r.host:
        rows.append(("host memory a process", gib(r.host)))
    rows.append(("FLOPs by formula", f"{r.formula:.4g}"))
    if r.compiled is not None:
        ratio = f" ({r.compiled / r.formula:.2f} x the formula)" if r.formula else ""
        rows.append(("FLOPs compiled", f"{r.compiled:.4g}{ratio}"))
        for name, flops in r.sources:
            rows.append(("", f"{flops / r.compiled:5.1%}  {name}"))
    for k in r.kernels:
        if k.flops != 0:
            said = f"{k.flops:.4g} FLOPs, counted {k.how}" if k.flops else "not counted"
            rows.append(("kernel", f"{k.name}, {k.times:g} times: {said}"))
    for (axes, kind), (times, size) in list(r.sent.items())[:TOP]:
        rows.append((f"{kind} along {axes}", f"{gib(size)} received, {times:g} times"))
    if rest := list(r.sent.values())[TOP:]:
        rows.append(("other collectives", f"{gib(sum(size for _, size in rest))} received"))
    if r.hbm is not None:
        rows.append(("HBM read and written", gib(r.hbm)))
    rows += _times(r)
    rows += [("note", text) for text in r.notes]
    if r.trouble:
        rows.append(("verdict", r.trouble))
    made = f", compiled in {r.seconds:.0f} s" if r.seconds else ""
    return rows_as_text(f"{r.program} on {r.topology}, mesh {r.mesh}; a device{made}", rows)


def rows_as_text(head: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{head}:", *(f"  {name:{width}}  {value}".rstrip() for name, value in rows)])


def _times(r: Report) -> list[tuple[str, str]]:
    t = r.time
    if t is None:
        return []
    rows = [
        (
            "roofline",
            f"products {seconds(t.products)}, HBM {seconds(t.hbm)}, "
            f"collectives {from_to(seconds(sum(t.sent.values())), seconds(t.sent_slow))}",
        ),
        ("a run takes at least", f"{took(t)}, all overlapped or nothing"),
        ("implies at most", f"{rate(r, t)}, on {r.devices} devices"),
        ("bound by", t.bound if r.fits else f"memory; then {t.bound}"),
    ]
    return rows


def took(t: Roofline) -> str:
    return from_to(seconds(t.best), seconds(t.worst))


def rate(r: Report, t: Roofline) -> str:
    """What follows at most."""
    tokens = from_to(f"{r.tokens / t.best:,.0f}", f"{r.tokens / t.worst:,.0f}")
    return f"{tokens} tokens/s, MFU {from_to(f'{r.mfu(t.best):.1%}', f'{r.mfu(t.worst):.1%}')}"


def from_to(best: str, worst: str) -> str:
    return best if best == worst else f"{best} to {worst}"


def seconds(s: float) -> str:
    if s >= 1:
        return f"{s:,.1f} s"
    return f"{s * 1e3:.3g} ms" if s >= 1e-3 else f"{s * 1e6:.3g} us"


def as_json(r: Report) -> dict[str, Any]:
    """All of it; collectives by "axes kind"."""
    found = dataclasses.asdict(r) | {
        "sent": {f"{kind} {axes}": {"times": times, "bytes": size}
                 for (axes, kind), (times, size) in r.sent.items()}
    }  # fmt: skip
    if r.time is not None:
        found["time"] |= {"best": r.time.best, "worst": r.time.worst, "bound": r.time.bound}
        found["mfu"] = {"best": r.mfu(r.time.best), "worst": r.mfu(r.time.worst)}
        found["assumptions"] = ASSUMPTIONS
    return found
