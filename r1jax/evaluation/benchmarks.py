"""The benchmarks: what each is called, which form its file has, how often it is asked.

k, replies to a question: 64 for AIME and GPQA, 16 for MATH-500 and Codeforces, 8 for LiveCodeBench
(R1's supplement, Nature 645:633). For others the paper says "typically between 4 and 64": AIME 2025
and AMC are asked as AIME 2024 is, the others 4 times.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from r1jax.config import TaskName
from r1jax.data.program_sources import unfair
from r1jax.data.sources import flawed

LEAST = 4  # where k is unreported


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """form: of its file. names: what the file or folder is called below --data, the first that is
    there. whole: a folder is read whole, not its test set alone. left_out: why a row is no question
    of this benchmark; "" if it is. shuffled: its options are, by --seed. rated: its problems have
    ratings, and so a model has one. graded: replies are judged here. metric: as it is published."""

    title: str
    form: TaskName
    k: int = LEAST
    names: tuple[str, ...] = ()
    whole: bool = False
    left_out: Callable[[dict[str, Any]], str] = lambda row: ""
    shuffled: bool = False
    rated: bool = False
    graded: bool = True
    metric: str = "pass@1"


def _not_test(row: dict[str, Any]) -> str:
    """MBPP's test split is tasks 11 to 510 (arXiv 2108.07732)."""
    number = row.get("task_id")
    test = not isinstance(number, int) or 11 <= number <= 510
    return "" if test else "not of the test split"


EMBEDDED = "countdown"  # the one that needs no file

BENCHMARKS: dict[str, Benchmark] = {
    EMBEDDED: Benchmark("Countdown, embedded", "countdown", 8),
    "aime24": Benchmark("AIME 2024", "aime", 64, ("aime24", "aime_2024")),
    "aime25": Benchmark("AIME 2025", "aime", 64, ("aime25", "aime_2025")),
    "amc": Benchmark("AMC", "amc", 64, ("amc", "amc23", "amc_2023")),
    "math500": Benchmark("MATH-500", "math", 16, ("math500", "math_500")),
    "gsm8k": Benchmark("GSM8K", "gsm8k", names=("gsm8k",)),
    "svamp": Benchmark("SVAMP", "svamp", names=("svamp",)),
    "gpqa": Benchmark("GPQA Diamond", "gpqa", 64, ("gpqa_diamond", "gpqa"), shuffled=True),
    "mmlu": Benchmark("MMLU", "mmlu", names=("mmlu/test", "mmlu"), whole=True),
    "mmlu_stem": Benchmark("MMLU, STEM subjects", "mmlu", names=("mmlu_stem",)),
    "mmlu_pro": Benchmark("MMLU-Pro", "mmlu_pro", names=("mmlu_pro",)),
    "mmlu_redux": Benchmark(
        "MMLU-Redux", "mmlu_redux", names=("mmlu_redux",), whole=True, left_out=flawed
    ),
    "ceval": Benchmark("C-Eval", "ceval", names=("ceval/val", "ceval"), whole=True),
    "ifeval": Benchmark("IFEval", "ifeval", names=("ifeval",), metric="prompt strict"),
    "humaneval": Benchmark("HumanEval", "humaneval", names=("humaneval",)),
    "mbpp": Benchmark("MBPP", "mbpp", names=("mbpp/mbpp", "mbpp"), left_out=_not_test),
    "mbpp_sanitized": Benchmark(
        "MBPP, sanitized",
        "mbpp",
        names=("mbpp/sanitized-mbpp", "mbpp_sanitized"),
        left_out=_not_test,
    ),
    "livecodebench": Benchmark(
        "LiveCodeBench", "livecodebench", 8, ("livecodebench", "code_generation_lite"), whole=True
    ),
    "codeforces": Benchmark(
        "Codeforces", "codeforces", 16, ("codeforces",), left_out=unfair, rated=True
    ),
    "swebench": Benchmark(
        "SWE-bench Verified", "swebench", 1, ("swebench_verified", "swebench"), graded=False
    ),
}
