"""Distillation: a teacher's replies, the right and readable ones, and a student that learns them.

    python -m experiments.distill --teacher=runs/r1_zero            # into the embedded student
    python -m experiments.distill --teacher=DIR --student=DIR --data=gsm8k=train.jsonl
    python -m experiments.distill --traces=kept.jsonl --student=DIR --sft.epochs=3
    python -m experiments.distill --traces=OpenR1-Math-220k/data --preset=qwen_7b   # R1's own rates
    python -m experiments.evaluate --model=runs/distill/model

With --teacher, experiments.rejection_sample draws from it into OUT/traces, each of its flags behind
--draw; --data names the problems, or they are the embedded ones. Or --traces is a file or a folder
of rows that experiments.sft reads, .jsonl or .parquet, those of OpenR1-Math-220k and
OpenThoughts-114k among them. Either way the student then learns by SFT alone, packed, in its own
conversation, each of experiments.sft's flags behind --sft; what is longer than a row is left out
and counted, never cut. OUT/student is the run, OUT/model the result as a Hugging Face directory.

--student is a Hugging Face directory, an id on its Hub, the folder of a run, or the name of a
preset. A preset has R1's published rates for one of its students, which --student=DIR keeps. The
same command goes on where it was stopped.
"""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cli, rejection_sample
from experiments.rejection_sample import SampleConfig
from r1jax import hub, processes
from r1jax.checks import check
from r1jax.config import SFTConfig
from r1jax.data.conversation import check_form
from r1jax.evaluation.work import check_same
from r1jax.export import export
from r1jax.files import read_object
from r1jax.models import open_model, tuned_from
from r1jax.pipeline.rejection import KEPT
from r1jax.pipeline.tuning import conversation_of, fine_tune
from r1jax.presets import DISTILLED
from r1jax.run import Run, Stopped
from r1jax.sharding import make_mesh


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    sft: SFTConfig
    draw: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    export_dtype: Literal["bfloat16", "float32"] = "bfloat16"


FLAGS: cli.Flags = {
    "teacher": ("DIR|org/name|URL", "the same as --draw.model, from which replies are drawn"),
    "data": ("[TASK=]FILE,...", "the same as --draw.data: problems for the teacher"),
    "traces": ("FILE", "the same as --sft.data: rows of a teacher, in the place of one"),
    "student": ("DIR|org/name|PRESET", "sets sft's base, model, tokenizer and conversation"),
    "out": ("DIR", "holds traces, student and model (runs/distill)"),
}
OUT = "runs/distill"


def configured(args: list[str]) -> tuple[DistillConfig, Path, bool]:
    """(what to do, the folder, whether a teacher is asked). Raises InputError."""
    given = {name: cli.take(args, f"--{name}") for name in FLAGS}
    out, student = Path(given["out"] or OUT), given["student"]
    preset = cli.take(args, "--preset")
    known = ", ".join(DISTILLED)
    check(preset in (None, *DISTILLED), f"--preset={preset}: expected one of {known}")
    if student in DISTILLED and not Path(student).exists():
        preset, student = preset or student, None
    sft = DISTILLED[preset or ("paper" if student else "tiny")]()
    helps = bool({"-h", "--help"} & set(args))
    if student is None and hub.is_hub_id(sft.base):
        student = sft.base
    if student and not helps:
        sft = tuned_from(sft, student)
    check(student is not None or sft.base != "DIR", f"--preset={preset}: --student=DIR is needed")
    asks = given["teacher"] is not None
    check(
        helps or asks != (given["traces"] is not None),
        "--teacher=DIR or --traces=FILE is needed" + (", and not both" if asks else ""),
    )
    check(asks or given["data"] is None, "--data: problems are for a --teacher; rows are --traces")
    draw = SampleConfig(
        model=given["teacher"] or "", data=given["data"] or "", out=str(out / "traces")
    )
    rows = given["traces"] or ""
    sft = dataclasses.replace(sft, out=str(out / "student"), data=rows, resume="auto")
    flags = {**cli.starting_flags(DISTILLED), **FLAGS}
    del flags["config"]
    cfg = cli.parse(DistillConfig, DistillConfig(sft, draw), args, __doc__ or "", flags)
    check(asks or cfg.draw == draw, "--draw: nothing is drawn for --traces")
    if asks:
        check(cfg.sft.data == rows, "--sft.data: with --teacher the rows are what it replies")
        drawn = str(Path(cfg.draw.out) / KEPT)
        cfg = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, data=drawn))
    return cfg, out, asks


def main(args: list[str]) -> None:
    cfg, out, asks = configured(args)
    if asks:
        if not cfg.draw.is_url:
            teacher = open_model(cfg.draw.model).conversation(cfg.draw.conversation, "r1_zero")
            own = conversation_of(cfg.sft).form
            check_form(f"--teacher={cfg.draw.model}", teacher.form, own)
        rejection_sample.draw(cfg.draw)
    check_rows(out, cfg.sft.data)
    try:
        run = fine_tune(cfg.sft)
    except Stopped as stopped:
        way_on = "the same command"
        raise Stopped(stopped.where, stopped.by, way_on, stopped.at_once) from None
    finally:
        check_rows(out, cfg.sft.data)
    if is_made_anew(run, out / "model", cfg.export_dtype):
        mesh = make_mesh(cfg.sft.mesh)
        print(export(cfg.sft.out, str(out / "model"), mesh, cfg.export_dtype))


def check_rows(out: Path, data: str) -> None:
    """Notes what the student that `out` holds has learnt from. Raises InputError if that was other
    rows; where there is no student yet it does nothing."""

    def same() -> list:
        begun = (out / "student").exists() and Path(data).is_file()
        if begun and jax.process_index() == 0:
            rows = hashlib.sha256(Path(data).read_bytes()).hexdigest()
            check_same(out, "distill.json", "a student", {"data": data, "rows": rows})
        return []

    processes.gather(same)


def is_made_anew(run: Run, model: Path, dtype: str) -> bool:
    """Whether the run's result is to be written; what a shorter one left, or one in another type,
    is removed. The same in every process of a pod."""
    config = model / "config.json"
    trained = run.first < run.at
    trained |= (read_object(config) or {"torch_dtype": dtype}).get("torch_dtype") != dtype
    if trained and jax.process_index() == 0:
        shutil.rmtree(model, ignore_errors=True)
    return bool(processes.from_first(np.array(trained or not model.exists())))


if __name__ == "__main__":
    cli.run(main, trains=True)
