"""Published figures of R1, R1-Zero and the students, each with where it is from.

pass@1 in percent, but for Codeforces, which is a rating, and where a name says otherwise.
"""

from typing import NamedTuple

README = "README of deepseek-ai/DeepSeek-R1"
V1 = "arXiv 2501.12948v1, Table 2"
NATURE = "Nature 645:633"
CARD = "model card of deepseek-ai/DeepSeek-R1-0528"


class Figure(NamedTuple):
    model: str
    value: float
    source: str


_STUDENTS = (
    # AIME 2024 pass@1 and cons@64, MATH-500, GPQA Diamond, LiveCodeBench, Codeforces
    ("Distill-Qwen-1.5B", 28.9, 52.7, 83.9, 33.8, 16.9, 954),
    ("Distill-Qwen-7B", 55.5, 83.3, 92.8, 49.1, 37.6, 1189),
    ("Distill-Qwen-14B", 69.7, 80.0, 93.9, 59.1, 53.1, 1481),
    ("Distill-Qwen-32B", 72.6, 83.3, 94.3, 62.1, 57.2, 1691),
    ("Distill-Llama-8B", 50.4, 80.0, 89.1, 49.0, 39.6, 1205),
    ("Distill-Llama-70B", 70.0, 86.7, 94.5, 65.2, 57.5, 1633),
)
_OF_STUDENTS = ("aime24", "aime24/cons@64", "math500", "gpqa", "livecodebench", "codeforces")

_R1: dict[str, tuple[Figure, ...]] = {
    "aime24": (
        Figure("R1", 79.8, README),
        Figure("R1-Zero", 77.9, NATURE),
        Figure("R1-Zero", 71.0, V1),
        Figure("R1-0528", 91.4, CARD),
    ),
    "aime24/cons@64": (Figure("R1-Zero", 86.7, V1),),
    "aime25": (Figure("R1", 70.0, CARD), Figure("R1-0528", 87.5, CARD)),
    "math500": (Figure("R1", 97.3, README), Figure("R1-Zero", 95.9, V1)),
    "gpqa": (
        Figure("R1", 71.5, README),
        Figure("R1-Zero", 75.8, NATURE),
        Figure("R1-Zero", 73.3, V1),
        Figure("R1-0528", 81.0, CARD),
    ),
    "livecodebench": (Figure("R1", 65.9, README), Figure("R1-Zero", 50.0, V1)),
    "codeforces": (Figure("R1", 2029, README), Figure("R1-Zero", 1444, V1)),
    "mmlu": (Figure("R1", 90.8, README),),
    "mmlu_redux": (Figure("R1", 92.9, README), Figure("R1-0528", 93.4, CARD)),
    "mmlu_pro": (Figure("R1", 84.0, README), Figure("R1-0528", 85.0, CARD)),
    "ifeval": (Figure("R1", 83.3, README), Figure("R1-Zero", 46.6, NATURE)),
    "ceval": (Figure("R1", 91.8, README),),
    "swebench": (Figure("R1", 49.2, README), Figure("R1-0528", 57.6, CARD)),
}

REPORTED: dict[str, tuple[Figure, ...]] = {
    name: (
        *_R1.get(name, ()),
        *(
            Figure(row[0], float(row[1 + _OF_STUDENTS.index(name)]), README)
            for row in _STUDENTS
            if name in _OF_STUDENTS
        ),
    )
    for name in dict.fromkeys((*_R1, *_OF_STUDENTS))
}
