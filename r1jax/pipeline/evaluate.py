"""The last stage: every model asked the same held-out questions, and the table of them all."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from r1jax.evaluation import table as results_table
from r1jax.evaluation.benchmarks import BENCHMARKS, Benchmark
from r1jax.evaluation.evaluate import Evaluation
from r1jax.evaluation.protocol import Protocol
from r1jax.evaluation.questions import Asked, Choice, load, named
from r1jax.evaluation.replies import Key, Lines, grade_of, reply_of
from r1jax.evaluation.work import REPLIES
from r1jax.files import write_whole
from r1jax.pipeline import table
from r1jax.pipeline.plan import Evaluate
from r1jax.pipeline.runs import grader_for, replier_of
from r1jax.pipeline.table import Judged, Value

Say = Callable[[str], None]


def sets(folder: Path, cfg: Evaluate) -> list[Asked]:
    """The questions of each file of problems in a folder, by its name; or of the benchmarks that it
    holds, where a file is called as one."""
    how, files = Choice(limit=cfg.limit), sorted(folder.glob("*.jsonl"))
    if not files or any(file.stem in BENCHMARKS for file in files):
        return [load(*one, how) for one in named("", str(folder), "--heldout")]
    return [load(f.stem, Benchmark(f.stem, "problems"), str(f), how) for f in files]


def evaluate(
    cfg: Evaluate, models: dict[str, Path], folder: Path, out: Path, seed: int, mesh: Mesh, say: Say
) -> dict[str, dict[str, Value]]:
    """Asks the models, by name; writes OUT/NAME/ of each and OUT/table.json."""
    asked = sets(folder, cfg)
    protocol = Protocol(
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        max_tokens=cfg.max_tokens,
        k=cfg.k,
        directives=False,
        seed=seed,
    )
    found = {}
    for name, model in models.items():
        say(f"{name}: {model}")
        replier, weights = replier_of(str(model), protocol, mesh, say)
        problems = [question.problem for one in asked for question in one.questions]
        with grader_for(problems, replier.form) as grader:
            results = Evaluation(
                replier,
                asked,
                protocol,
                grader,
                out / name,
                identity={"weights": weights},
                say=say,
            ).run()
        if any(one.name in BENCHMARKS for one in asked):
            for line in results_table.lines(results):
                say(line)
        found[name] = table.values_of(replies_of(out / name, asked))
    if jax.process_index() == 0:
        write_whole(out / "table.json", json.dumps(table.as_data(found), indent=2) + "\n")
    return found


def replies_of(folder: Path, asked: list[Asked]) -> Iterator[Judged]:
    """What an evaluation has kept, in the order of its questions."""
    with (
        contextlib.closing(Lines(folder / REPLIES, True)) as replies,
        contextlib.closing(Lines(folder / "grades.jsonl", True)) as grades,
    ):
        for one in asked:
            for question in one.questions:
                for sample in range(len(replies.rows)):
                    key = Key(one.name, question.id, sample)
                    if key not in replies.rows:
                        break
                    reply = reply_of(replies.rows[key], replies.path)
                    yield question.problem, reply, grade_of(grades.rows[key], grades.path)
