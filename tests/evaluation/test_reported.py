"""The published figures, against the tables that they were taken from."""

import json

import pytest

from r1jax.evaluation.benchmarks import BENCHMARKS
from r1jax.evaluation.reported import README, REPORTED, V1

KEYS = {
    "aime24": ("AIME 2024 (Pass@1)", "AIME 2024 pass@1", "aime24_pass@1"),
    "aime24/cons@64": (None, "AIME 2024 cons@64", "aime24_cons@64"),
    "math500": ("MATH-500 (Pass@1)", "MATH-500 pass@1", "math500_pass@1"),
    "gpqa": ("GPQA-Diamond (Pass@1)", "GPQA Diamond pass@1", "gpqa_diamond_pass@1"),
    "livecodebench": ("LiveCodeBench (Pass@1-COT)", "LiveCodeBench pass@1", "livecodebench_pass@1"),
    "codeforces": ("Codeforces (Rating)", "CodeForces rating", "codeforces_rating"),
    "mmlu": ("MMLU (Pass@1)", None, None),
    "mmlu_redux": ("MMLU-Redux (EM)", None, None),
    "mmlu_pro": ("MMLU-Pro (EM)", None, None),
    "ifeval": ("IF-Eval (Prompt Strict)", None, None),
    "ceval": ("C-Eval (EM)", None, None),
    "swebench": ("SWE Verified (Resolved)", None, None),
}


def test_every_figure_is_of_a_benchmark():
    assert {name.partition("/")[0] for name in REPORTED} < BENCHMARKS.keys()


@pytest.mark.parametrize("name", KEYS)
def test_against_the_tables(name, data_dir):
    tables = json.loads((data_dir / "reported_results" / "deepseek_r1_reported.json").read_text())
    r1, student, zero = KEYS[name]
    wanted = set()
    if r1:
        (row,) = (row for row in tables["deepseek_r1"] if row["benchmark"] == r1)
        wanted.add(("R1", row["DeepSeek R1"], README))
    if student:
        of = (row for row in tables["distilled"] if row["model"].startswith("DeepSeek-R1-Distill"))
        wanted |= {(row["model"].removeprefix("DeepSeek-R1-"), row[student], README) for row in of}
    if zero:
        (row,) = (row for row in tables["r1_zero_table2"] if row["model"] == "DeepSeek-R1-Zero")
        wanted.add(("R1-Zero", row[zero], V1))
    assert wanted == {tuple(f) for f in REPORTED[name] if f.source in (README, V1)}
