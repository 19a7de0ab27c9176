"""Compiles what a run would run, for TPUs or GPUs that are not there, and says whether it fits.

    python -m launch.plan --model=deepseek-v2-lite --topology=v5p:2x2x4 --tokens=4096 --rows=128
    python -m launch.plan --model=deepseek-r1-distill-qwen-7b --topology=h100:8 --sweep
    python -m launch.plan --preset=r1_zero_paper --topology=v5p:8x8x16 --mesh=128x8 --job=sample
    python -m launch.plan --model=deepseek-v2-lite,deepseek-r1-distill-llama-8b \
        --topology=h100:8,v6e:4x4 --job=grpo,sample --tokens=4096,32768

Needs `pip install -e '.[aot]'` for TPUs, '.[aot-cuda]' for GPUs, and no device. --job: grpo, a
rollout's updates; sft, one update; sample, decoding; prefill. --tokens: of prompt and reply
together; --rows: replies (of sft, rows) an update. Any field of the preset is a flag, as in
experiments.r1_zero; --model is a published model's name, or a Hugging Face directory, and with it
--preset is r1_zero_paper: 512 questions x 16 replies in 16 updates, or as --rows has it. Of several
models, topologies, jobs or tokens, by commas, each plan is a line of a table.

Compiled and modelled, not run: memory and collectives are what the compiler says, times are bounds.
"""

import json
import os

# Before JAX is imported: compilers only, no device is looked for; and several plans at a time.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_HOST_BOUNDS": "1,1,1",  # else libtpu says that it misses them
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_COMPILATION_CACHE_DIR": "",  # what is compiled for other devices cannot be read from there
}

import dataclasses
import math
from collections.abc import Callable

import jax

from experiments import cli
from launch.planning import chips, many, price, sweep, targets
from launch.planning.formula import parameters
from launch.planning.jobs import JOBS, Job, layout_on, longest, program, reshard, sized
from launch.planning.report import Report, as_json, plan, rows_as_text, table
from launch.planning.roofline import ASSUMPTIONS
from r1jax import hub, sharding
from r1jax.checks import InputError, check, near
from r1jax.config import RunConfig
from r1jax.models import adapted
from r1jax.presets import RUNS
from r1jax.published import MODELS

FLAGS: cli.Flags = {
    "topology": (
        "CHIP:SHAPE",
        f"v5p:4x4x4, or h100:2x8 (hosts x GPUs); chips: {', '.join(chips.CHIPS)}",
    ),
    "model": ("NAME|DIR", "a published model, or a Hugging Face directory, in the preset's place"),
    "job": ("|".join(JOBS), "what is compiled"),
    "tokens": ("N", "of prompt and reply together, in the preset's place"),
    "rows": ("N", "replies an update, in the preset's place; of sft, rows"),
    "sweep": ("", "tries all meshes (or, with --mesh, that one) and splits of the batch"),
    "lengths": (
        "MEAN[:SPREAD]",
        "of replies, in tokens and as a log-normal distribution: prices an iteration of grpo",
    ),
    "price": ("X", "of a device-hour, for --lengths"),
    "json": ("", "prints all figures as JSON"),
}


@dataclasses.dataclass(frozen=True)
class Asked:
    name: str  # of the model, or the preset
    where: chips.Topology
    cfg: RunConfig
    job: Job
    tokens: int
    rows: int
    mesh: str  # "": none in particular
    per_device: bool  # rows a device at once are not asked for
    sweep: bool
    lengths: str
    price: float
    as_json: bool


def main(args: list[str]) -> None:
    several = many.combinations(args)
    if len(several) > 1:
        return lines(several)
    asked = understood(several[0])
    tried: list[sweep.Try] = []
    say: Callable[[str], None] = (lambda _: None) if asked.as_json else print
    if asked.sweep:
        tried = try_all(asked, say)
        best = min(tried, key=lambda t: t.rank)
        found, cfg = best.report, of_mesh(asked, best.mesh, best.per_device)
        if found is None:
            raise InputError(f"--sweep: nothing compiles; the last: {best.trouble}")
        say(f"the best: --mesh={best.mesh} --rl.rows={cfg.rl.rows}")
    else:
        cfg = of_mesh(asked, asked.mesh, 1)
        found = compiled(asked, cfg, asked.job)
    say(table(found))
    parts: dict[str, Report] = {}
    if asked.lengths and found.time is not None:
        parts = rollout(asked, cfg)
    it = None
    if parts and all(r.time is not None for r in parts.values()):
        layout = layout_on(cfg, targets.mesh(asked.where, cfg.mesh))
        it = price.iteration(cfg, asked.lengths, found.devices, layout, parts, found)
        say(table(parts["decode"]))
        rows = price.priced(it, found.devices, asked.price, cfg)
        say(rows_as_text("A GRPO iteration", [*rows, price.together(found, parts["decode"])]))
    elif parts:
        say(next(r.trouble for r in parts.values() if r.time is None))
    say(f"Compiled and modelled, not run. {ASSUMPTIONS}.")
    if asked.as_json:
        whole = as_json(found) | {
            "parts": {name: as_json(r) for name, r in parts.items()},
            "iteration": it and dataclasses.asdict(it) | {"seconds": it.seconds},
            "tried": [dataclasses.asdict(dataclasses.replace(t, report=None)) | {"rank": t.rank}
                      for t in tried],
        }  # fmt: skip
        print(json.dumps(whole))


def lines(several: list[list[str]]) -> None:
    """A table of plans. All are understood before any is compiled. Raises InputError if none
    compiles."""
    plans = [understood(list(args)) for args in several]
    print(many.HEAD)
    refused = 0
    for asked in plans:
        cfg = asked.cfg
        found: Report | str
        try:
            cfg = of_mesh(asked, asked.mesh, 1)
            found = compiled(asked, cfg, asked.job)
        except InputError as error:
            found, refused = str(error), refused + 1
        about = asked.name, asked.where.text, asked.job, f"{longest(cfg):,}"
        print(many.line(about, cfg.mesh, found), flush=True)
        jax.clear_caches()  # of programs that are not met again
    check(refused < len(plans), "none of these plans compiles")


def understood(args: list[str]) -> Asked:
    """Raises InputError for what cannot be asked."""
    given = {name: cli.take(args, f"--{name}") for name in FLAGS if FLAGS[name][0]}
    switches = {name: f"--{name}" in args for name in FLAGS if not FLAGS[name][0]}
    args = [a for a in args if a not in ("--sweep", "--json")]
    mesh = cli.take(list(args), "--mesh") or ""
    split = cli.take(list(args), "--rl.rows") is None
    name, preset = given["model"], cli.take(list(args), "--preset") or "tiny"
    cfg = cli.starting_config(RUNS, "r1_zero_paper" if name else "tiny", args)
    if name:
        known = name in MODELS or os.path.isdir(name)
        check(known, f"--model={name}: no directory, and no published model{near(name, MODELS)}")
        model = MODELS[name]() if name in MODELS else hub.read_config(name)
        # Prompts that are read at a time must divide the slots, which one may want fewer of.
        sampling = dataclasses.replace(cfg.sampling, refill=math.gcd(cfg.sampling.refill, 64))
        cfg = dataclasses.replace(cfg, model=model, sampling=sampling)
    cfg = cli.parse(RunConfig, cfg, args, __doc__ or "", {**cli.starting_flags(RUNS), **FLAGS})
    cfg = dataclasses.replace(cfg, model=adapted(cfg.model, cfg.lora))
    wanted, lengths = given["job"] or "grpo", given["lengths"] or ""
    job = next((j for j in JOBS if j == wanted), None)
    if job is None:
        raise InputError(f"--job={wanted}: expected one of {', '.join(JOBS)}")
    check(job == "grpo" or not lengths, f"--lengths: of a GRPO iteration, not of --job={job}")
    check(not given["price"] or bool(lengths), "--price: of an iteration, which --lengths asks for")
    where = chips.topology(given["topology"] or "v5p:2x2x1")
    asked = Asked(
        name or preset, where, cfg, job, whole(given, "tokens"), whole(given, "rows"),
        mesh, split, switches["sweep"], lengths, positive(given, "price"), switches["json"],
    )  # fmt: skip
    if asked.lengths:  # a slip is told before anything is compiled
        price.lengths(lengths, sized(cfg, asked.tokens, asked.rows, 0, 1).sampling.max_tokens, 2)
    return asked


def whole(given: dict[str, str | None], name: str) -> int:
    text = given[name] or "0"
    good = text.isdigit() and (int(text) > 0 or given[name] is None)
    check(good, f"--{name}={text}: expected a number of at least 1")
    return int(text)


def positive(given: dict[str, str | None], name: str) -> float:
    text = given[name] or "0"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    good = math.isfinite(value) and value >= 0
    check(good, f"--{name}={text}: expected a finite number that is not negative, such as 2.5")
    return value


def of_mesh(asked: Asked, mesh: str, per_device: int) -> RunConfig:
    cfg = asked.cfg
    cfg = dataclasses.replace(cfg, mesh=mesh or usual_mesh(cfg, asked.where))
    sizes = sharding.parse_mesh(cfg.mesh)
    n = math.prod(sizes.values()) // sizes[sharding.CONTEXT]  # that do not share rows
    rows = asked.rows if asked.job == "grpo" else 0
    return sized(cfg, asked.tokens, rows, per_device * asked.per_device, n)


def usual_mesh(cfg: RunConfig, where: chips.Topology) -> str:
    """Where none is asked for: experts over up to 8 devices, the rest FSDP. Without experts, as few
    as make of the weights that replies are drawn with a third of a device's memory."""
    model = cfg.model
    most, wanted = math.gcd(where.devices, 8), 8
    if model.router is not None:
        most = math.gcd(model.router.experts, most)
    else:
        wanted = math.ceil(3 * 2 * parameters(model).total / where.chip.memory)
    over = next((n for n in (1, 2, 4) if n >= wanted), most)
    return f"{where.devices // min(over, most)}x{min(over, most)}"


def compiled(asked: Asked, cfg: RunConfig, job: Job) -> Report:
    mesh = targets.mesh(asked.where, cfg.mesh)
    try:
        made = program(job, cfg, mesh, asked.where, asked.rows)
    except targets.OutOfMemory as error:  # of what comes before it
        raise InputError(f"weights and cache of {job}: {error}") from error
    return plan(made, cfg, asked.where)


def try_all(asked: Asked, say: Callable[[str], None]) -> list[sweep.Try]:
    def one(mesh: str, per_device: int) -> Report:
        return compiled(asked, of_mesh(asked, mesh, per_device), asked.job)

    sizes = of_mesh(asked, asked.mesh, 1)
    found = []
    for t in sweep.tries(sizes, asked.where, asked.job, one, asked.mesh):
        say(sweep.line(t))
        found.append(t)
    return found


def rollout(asked: Asked, cfg: RunConfig) -> dict[str, Report]:
    """The parts of an iteration beside its updates."""
    mesh = targets.mesh(asked.where, cfg.mesh)
    return {
        "reshard": plan(reshard(cfg, mesh), cfg, asked.where),
        "prefill": compiled(asked, cfg, "prefill"),
        "decode": compiled(asked, cfg, "sample"),
    }


if __name__ == "__main__":
    cli.run(main)
