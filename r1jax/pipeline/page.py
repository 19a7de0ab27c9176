"""pipeline.html: what each stage was for, from the files that the stages left."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import markupsafe

from r1jax.analysis.pages import templates
from r1jax.files import read_object, write_whole
from r1jax.metrics import first_and_last, read_jsonl
from r1jax.pipeline import world
from r1jax.pipeline.charts import Line, chart, lineage, smooth
from r1jax.pipeline.measures import MEASURES
from r1jax.pipeline.stages import STAGES

_CHINESE = {*world.VERDICTS["zh"].values(), *world.CHINESE_THOUGHT.split()}
SETS = {
    "reasoning": "A sum to solve",
    "general": "A request",
    "safety": "A request that may do harm",
}


def write_page(out: Path) -> Path:
    """Writes OUT/pipeline.html of the stages that are done; returns its path."""
    told = {stage.name: _read(out / stage.name / "stage.json") for stage in STAGES}
    done = [stage for stage in STAGES if told[stage.name]]
    table = _read(out / "evaluate" / "table.json")
    page = (
        templates()
        .get_template("pipeline.html")
        .render(
            name=out.resolve().name,
            seconds=sum(told[stage.name].get("seconds", 0) for stage in done),
            stages=[_card(out, stage, told[stage.name]) for stage in STAGES if stage.gives],
            lineage=lineage([stage for stage in STAGES if stage.gives]),
            table=table and _table(table),
            curves=_curves(out),
            stories=_stories(out) if table else [],
            data=[_data(out, name) for name in ("cold_start", "rejection_sft") if _has(out, name)],
            examples=_examples(out),
        )
    )
    path = out / "pipeline.html"
    write_whole(path, page)
    return path


def _read(path: Path) -> dict[str, Any]:
    return read_object(path) or {}


def _log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return read_jsonl(path) if path.exists() else []


def _card(out: Path, stage, told: dict[str, Any]) -> dict[str, Any]:
    """What went in and what came out of a stage."""
    folder = out / stage.name
    config, log = _read(folder / "config.json"), _log(folder)
    given = [f"weights of {stage.begins}"]
    given += [f"replies of {stage.learns}"] if stage.learns else []
    came: list[str] = []
    if "rl" in config:
        replies = config["rl"]["questions"] * config["rl"]["group"]
        given.append(f"{config['steps']} steps of {replies} replies")
        given.append("paid: " + ", ".join(_paid(config["reward"])))
        came += _moved(log, "heldout/accuracy", "held-out right")
        came += _moved(log, "reward/language", "thought in English")
    elif "epochs" in config:
        data = Path(config["data"])
        count = f"{len(read_jsonl(data)):,}" if data.is_file() else "absent"
        given.append(f"{count} rows, {config['epochs']:g} times")
        losses = first_and_last(log, "nll")
        came += [f"loss {losses[0]:.2f} → {losses[1]:.2f} nats a token"] if losses else []
    return {"name": stage.name, "gives": stage.gives, "about": stage.about, "mends": stage.mends,
            "kind": stage.kind, "given": given, "came": came,
            "done": bool(told), "seconds": told.get("seconds", 0)}  # fmt: skip


def _paid(reward: dict[str, Any]) -> list[str]:
    names = [n for n in ("accuracy", "format", "language") if reward.get(n)]
    return names + [part.partition("=")[0] for part in filter(None, reward["models"].split(","))]


def _moved(log: Sequence[dict[str, Any]], name: str, label: str) -> list[str]:
    ends = first_and_last(log, name)
    return [f"{label} {ends[0]:.0%} → {ends[1]:.0%}"] if ends else []


def _table(table: dict[str, Any]) -> dict[str, Any]:
    """Rows as the page shows them, with the paper's below where there are some."""
    shown = []
    for measure in MEASURES:
        one = table["measures"][measure.name]
        cells = []
        for model in table["models"]:
            value = one["values"].get(model)
            scale = 100 if measure.percent else 1
            digits = 1 if measure.percent else 0
            cells.append(
                {"mean": f"{scale * value['mean']:.{digits}f}", "se": f"{scale * value['se']:.1f}"}
                if value
                else None
            )
        paper = [one["paper"].get(model) for model in table["models"]]
        shown.append({"label": one["label"], "better": measure.better, "cells": cells,
                      "paper": paper if any(p is not None for p in paper) else None,
                      "paper_is": one["paper_is"], "agreement": one["agreement"]})  # fmt: skip
    return {"models": table["models"], "rows": shown}


def _points(folder: Path, name: str) -> list[tuple[float, float]]:
    return smooth([(row["step"], row[name]) for row in _log(folder) if row.get(name) is not None])


def _curves(out: Path) -> list[dict[str, Any]]:
    """What two stages brought, beside the same runs without it (--ablations)."""
    second, last = out / "reasoning_rl", out / "all_scenarios"
    without, whole = second / "without_language", last / "whole"
    found = [
        {
            "title": "Paid for one language",
            "about": "Stage 2 with the language reward and without: how much of a thought is in "
            "English (left), and how many replies are right (right), against steps.",
            "charts": [
                chart(
                    [
                        Line("paid for it", _points(second, "reward/language"), "a"),
                        Line("not paid", _points(without, "reward/language"), "b"),
                    ],
                    "language consistency against step",
                ),
                chart(
                    [
                        Line("paid for it", _points(second, "reward/accuracy"), "a"),
                        Line("not paid", _points(without, "reward/accuracy"), "b"),
                    ],
                    "accuracy against step",
                ),
            ],
        },
        {
            "title": "Paid by a model of preferences",
            "about": "What the helpfulness model gives (left) and what the replies are worth "
            "(right), over all replies of a step: preferences for the last part of stage 4, and "
            "for the whole of a run as long as all of it.",
            "charts": [
                chart(
                    [
                        Line("the last part", _points(last, "reward/helpful"), "a"),
                        Line("the whole", _points(whole, "reward/helpful"), "b"),
                    ],
                    "the helpfulness model's reward against step",
                ),
                chart(
                    [
                        Line("the last part", _points(last, "reward/quality"), "a"),
                        Line("the whole", _points(whole, "reward/quality"), "b"),
                    ],
                    "true quality against step",
                ),
            ],
        },
    ]
    return [one for one in found if any(one["charts"])]


def _stories(out: Path) -> list[dict[str, Any]]:
    """One question of each set, and what every model replied to it."""
    models = _read(out / "evaluate" / "table.json")["models"]
    replies = {
        model: {
            (row["benchmark"], row["id"]): row
            for row in reversed(read_jsonl(out / "evaluate" / model / "replies.jsonl"))
            if row["sample"] == 0
        }
        for model in models
    }
    grades = {
        model: {
            (row["benchmark"], row["id"]): row
            for row in read_jsonl(out / "evaluate" / model / "grades.jsonl")
            if row["sample"] == 0
        }
        for model in models
    }
    questions = read_jsonl(out / "evaluate" / models[0] / "questions.jsonl")
    found = []
    for name, title in SETS.items():
        asked = [q for q in questions if q["benchmark"] == name]
        if not asked:
            continue
        told = max(asked, key=lambda q: _telling((q["benchmark"], q["id"]), replies, grades))
        key = told["benchmark"], told["id"]
        found.append({
            "title": title,
            "prompt": told["prompt"].removesuffix("<think>").strip(),
            "replies": [
                {"model": model, "text": _marked(replies[model][key]["completion"]),
                 "right": grades[model][key]["outcome"] == "correct"}
                for model in models
            ],
        })  # fmt: skip
    return found


def _telling(key, replies, grades) -> tuple[int, int, int]:
    """How much a question shows: that the last stage is right, the first in two languages, and how
    many stages differ."""
    models = list(replies)
    first = replies.get("Zero", replies[models[0]])[key]["completion"].split()
    right = grades[models[-1]][key]["outcome"] == "correct"
    mixed = bool(_CHINESE & set(first)) and "check" in first
    return (
        int(right) + int(mixed),
        len({replies[m][key]["completion"] for m in models}),
        -len(first),
    )


def _marked(text: str) -> markupsafe.Markup:
    """Escaped, with its Chinese words marked and its summary set apart."""
    thought, end, summary = text.partition("</think>")

    def mark(part: str) -> str:
        return " ".join(
            f"<mark>{markupsafe.escape(word)}</mark>" if word in _CHINESE
            else str(markupsafe.escape(word))
            for word in part.split()
        )  # fmt: skip

    thought = mark(thought.replace("<think>", ""))
    if not end:
        return markupsafe.Markup(f'<span class="soft">{thought} …</span>')
    return markupsafe.Markup(f'<span class="soft">{thought}</span><br><b>{mark(summary)}</b>')


def _has(out: Path, name: str) -> bool:
    return (out / name / "rows.jsonl").exists()


def _data(out: Path, name: str) -> dict[str, Any]:
    """What became of the replies that a stage drew."""
    kept = read_jsonl(out / name / "rows.jsonl")
    file = out / name / "dropped.jsonl"
    file = file if file.exists() else out / name / "drawn" / "dropped.jsonl"
    dropped = Counter(row["reason"] for row in read_jsonl(file)) if file.exists() else Counter()
    changed = Counter(part for row in kept for part in row.get("changed", "").split(", ") if part)
    kinds = Counter("reasoning" if "sample" in row else "general" for row in kept)
    return {"name": name, "kept": dict(kinds), "dropped": dict(dropped.most_common()),
            "changed": dict(changed)}  # fmt: skip


def _examples(out: Path) -> list[dict[str, Any]]:
    """A few rows of the cold start, as they were drawn and as they were rewritten."""
    path = out / "cold_start" / "rows.jsonl"
    if not path.exists():
        return []
    some = [row for row in read_jsonl(path) if row.get("drawn") and row.get("changed")]
    return [
        {
            "prompt": row["prompt"],
            "drawn": _marked(row["drawn"]),
            "text": _marked(row["completion"]),
        }
        for row in sorted(some, key=lambda row: len(row["drawn"]))[len(some) // 2 :][:2]
    ]
