"""A run's report: figures/*.png and one self-contained report.html, from the files it left.

It can be written at any time, of a finished run or one under way, which may have torn its last
line or evaluated nothing yet (`python -m experiments.report RUN`). The page
(`r1jax/assets/report.html`) escapes everything it is given: prompts and replies are a model's
text.
"""

import base64
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import markupsafe

from r1jax.analysis import head
from r1jax.analysis.figures import save_figures
from r1jax.analysis.pages import templates
from r1jax.analysis.reflection import REFLECTIVE_TERMS, TERM_PATTERN, has_thoughts
from r1jax.analysis.replies import before_during_after, early_middle_late
from r1jax.checks import check
from r1jax.files import read_object, write_whole
from r1jax.metrics import Row, first_and_last, first_reflective, is_correct, measured, read_jsonl

_DRAWING = threading.Lock()  # matplotlib's settings are those of the process
Images = dict[str, tuple[str, str]]  # by figure: data URLs of its wide and narrow layouts


def write_report(out_dir: Path) -> Path:
    """Writes `out_dir`/figures/*.png and `out_dir`/report.html; returns the latter's path.

    Reads config.json, metrics.jsonl, samples.jsonl and, where there is one, run.json; raises
    InputError if one of the first three is missing or no step was logged.
    """
    with _DRAWING:
        return _write(Path(out_dir))


def _write(out_dir: Path) -> Path:
    for name in ("config.json", "metrics.jsonl", "samples.jsonl"):
        check((out_dir / name).exists(), f"{out_dir} is not the folder of an RL run: no {name}")
    metrics = read_jsonl(out_dir / "metrics.jsonl")
    check(bool(metrics), f"{out_dir} has no step to report on: metrics.jsonl is empty")
    config = read_object(out_dir / "config.json") or {}
    run = read_object(out_dir / "run.json") or {}
    samples = read_jsonl(out_dir / "samples.jsonl")
    thoughts = has_thoughts(config.get("task", ""))
    if not thoughts:  # an older run logged them all the same
        metrics = [{k: v for k, v in m.items() if not k.startswith("reflection/")} for m in metrics]

    drawn = save_figures(metrics, out_dir / "figures")
    page = _render(
        name=out_dir.resolve().name,
        subtitle=_subtitle(metrics),
        facts=head.facts(config, run, metrics),
        tiles=_tiles(metrics, thoughts),
        images={name: (_data_url(wide), _data_url(small)) for name, (wide, small) in drawn.items()},
        story=before_during_after(samples, thoughts),
        finished="settled" in run or metrics[-1]["step"] == config.get("steps"),
        thoughts=thoughts,
        aha=first_reflective(samples),
        first_step=metrics[0]["step"],
        logged=len(samples),
        replies=early_middle_late(samples),
        terms=REFLECTIVE_TERMS,
        config=_sections(config),
    )
    path = out_dir / "report.html"
    write_whole(path, page)
    return path


def _render(*, images: Images, thoughts: bool, **values: Any) -> str:
    environment = templates(mark=_mark if thoughts else str, number=_number)
    environment.tests["correct"] = is_correct
    components = dict.fromkeys(name for row in values["replies"] for name in row["components"])
    return environment.get_template("report.html").render(
        images=images, thoughts=thoughts, components=list(components), **values
    )


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


def _tiles(metrics: Sequence[Row], thoughts: bool) -> list[dict[str, str]]:
    """The headline numbers: each metric's first and last value."""
    of, length = measured(metrics, "length")
    shown = [
        ("Held-out accuracy", "heldout/accuracy", "{:.1%}"),
        ("Held-out accuracy, greedy", "heldout/greedy", "{:.1%}"),
        (f"{of.capitalize()} length, tokens", length, "{:.0f}"),
    ]
    if thoughts:
        of, reflection = measured(metrics, "reflection")
        shown += [
            (f"{of.capitalize()} replies that reflect", reflection, "{:.1%}"),
            ("Training: terms a reply", "reflection/per_response", "{:.2f}"),
            ("Training: terms per 1,000 tokens", "reflection/per_1k_tokens", "{:.1f}"),
        ]
    else:
        shown.append(("Held-out reward", "heldout/reward", "{:.2f}"))
    tiles = []
    for label, name, form in shown:
        ends = first_and_last(metrics, name)
        if ends is None:
            tiles.append({"label": label, "value": "—", "change": "not measured"})
            continue
        start, end = (form.format(value) for value in ends)
        ratio = f"×{ends[1] / ends[0]:.1f}" if name == length and ends[0] else ""
        tiles.append({"label": label, "value": f"{start} → {end}", "change": ratio})
    return tiles


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


def _mark(text: str) -> markupsafe.Markup:
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
