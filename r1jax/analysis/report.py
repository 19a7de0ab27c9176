"""A run's report: figures/*.png and one self-contained report.html, from the files it left.

    python -m r1jax.analysis.report RUN_DIR

It can be written at any time, of a finished run or one under way. The page
(`r1jax/assets/report.html`) escapes everything it is given: prompts and replies are a model's
text.
"""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from r1jax.analysis.figures import save_figures
from r1jax.analysis.reflection import REFLECTIVE_TERMS, TERM_PATTERN
from r1jax.config import InputError, check
from r1jax.metrics import Row, first_and_last, first_reflective, is_correct, read_jsonl


def write_report(out_dir: Path) -> Path:
    """Writes `out_dir`/figures/*.png and `out_dir`/report.html; returns the latter's path.

    Reads config.json, metrics.jsonl and samples.jsonl there; raises InputError if one is
    missing or no step was logged.
    """
    out_dir = Path(out_dir)
    for name in ("config.json", "metrics.jsonl", "samples.jsonl"):
        check((out_dir / name).exists(), f"{out_dir} is not a run's folder: it has no {name}")
    config = json.loads((out_dir / "config.json").read_text())
    metrics = read_jsonl(out_dir / "metrics.jsonl")
    samples = read_jsonl(out_dir / "samples.jsonl")
    check(bool(metrics), f"{out_dir} has no step to report on: metrics.jsonl is empty")

    images = save_figures(metrics, out_dir / "figures")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("r1jax", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"highlight": _highlight, "number": _number}
    environment.tests["correct"] = is_correct
    replies = _early_middle_late(samples)
    page = environment.get_template("report.html").render(
        name=out_dir.resolve().name,
        subtitle=_subtitle(metrics),
        tiles=_tiles(metrics),
        images={name: _data_url(path) for name, path in images.items()},
        aha=first_reflective(samples),
        first_step=metrics[0]["step"],
        logged=len(samples),
        replies=replies,
        components=list(dict.fromkeys(name for row in replies for name in row["components"])),
        terms=REFLECTIVE_TERMS,
        config=_sections(config),
    )
    path = out_dir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _subtitle(metrics: Sequence[Row]) -> str:
    first, last = metrics[0]["step"], metrics[-1]["step"]
    parts = [f"step {first}" if first == last else f"steps {first} to {last}"]
    seconds = sum(
        row.get(f"time/{part}") or 0.0
        for row in metrics
        for part in ("rollout", "reward", "update")
    )
    if seconds:
        parts.append(f"{seconds / 60:.1f} minutes of rollouts, rewards and updates")
    if speed := first_and_last(metrics, "tokens_per_second"):
        parts.append(f"{speed[1]:,.0f} tokens/s at the end")
    return " · ".join(parts)


def _tiles(metrics: Sequence[Row]) -> list[dict[str, str]]:
    """The headline numbers: each metric's first and last value."""
    tiles = []
    for label, name, form in (
        ("Held-out accuracy", "heldout/accuracy", "{:.1%}"),
        ("Held-out accuracy, greedy", "heldout/greedy", "{:.1%}"),
        ("Response length, tokens", "length/mean", "{:.0f}"),
        ("Replies that reflect", "reflection/fraction", "{:.1%}"),
        ("Reflective terms a reply", "reflection/per_response", "{:.2f}"),
        ("Terms per 1,000 tokens", "reflection/per_1k_tokens", "{:.1f}"),
    ):
        ends = first_and_last(metrics, name)
        if ends is None:
            tiles.append({"label": label, "value": "—", "change": "not measured"})
            continue
        start, end = (form.format(value) for value in ends)
        ratio = f"×{ends[1] / ends[0]:.1f}" if name == "length/mean" else ""
        tiles.append({"label": label, "value": f"{start} → {end}", "change": ratio})
    return tiles


def _early_middle_late(samples: Sequence[Row]) -> list[Row]:
    """The first correct and the first incorrect reply of the first, middle and last step."""
    steps = sorted({row["step"] for row in samples})
    chosen = []
    for step in dict.fromkeys(steps[i] for i in (0, len(steps) // 2, -1)) if steps else ():
        rows = [row for row in samples if row["step"] == step]
        for correct in (True, False):
            chosen += [row for row in rows if is_correct(row) == correct][:1]
    return chosen


def _sections(config: dict[str, Any]) -> dict[str, dict[str, str]]:
    """A nested configuration as {section: {dotted.key: value}}, its scalars under "run"."""
    sections: dict[str, dict[str, str]] = {"run": {}}

    def visit(section: str, prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(section, f"{prefix}.{key}" if prefix else key, inner)
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            sections.setdefault(section, {})[prefix] = shown

    for key, value in config.items():
        visit(key, "", value) if isinstance(value, dict) else visit("run", key, value)
    return {name: entries for name, entries in sections.items() if entries}


def _highlight(text: str) -> markupsafe.Markup:
    """The text, escaped, with its reflective terms marked."""
    parts = TERM_PATTERN.split(text)  # odd places hold the terms: the pattern has one group
    mark = markupsafe.Markup("<mark>{}</mark>")
    return markupsafe.Markup("").join(
        mark.format(part) if i % 2 else part for i, part in enumerate(parts)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m r1jax.analysis.report RUN_DIR")
    try:
        print(write_report(Path(sys.argv[1])))
    except InputError as error:
        sys.exit(str(error))
