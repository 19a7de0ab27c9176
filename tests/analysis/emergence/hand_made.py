"""Replies and logs made by hand."""

import json
from pathlib import Path

from r1jax.analysis.emergence.logs import Reply

NUMBERS, TARGET = (9, 5, 4, 2), 8
PROMPT = "use 9 5 4 2 to make 8 <think>"
WRONG, RIGHT = "9 + 5 = 14 - 4 = 10 + 2 = 12", "9 + 5 = 14 - 4 = 10 - 2 = 8"
SAYS = {WRONG: "<answer> 9 + 5 - 4 + 2 </answer>", RIGHT: "<answer> 9 + 5 - 4 - 2 </answer>"}
GUESS_WRONG = f"<think> {WRONG} </think> {SAYS[WRONG]}"
GUESS_RIGHT = f"<think> {RIGHT} </think> {SAYS[RIGHT]}"
CORRECTS = (
    f"<think> {WRONG} check 12 = 8 wrong wait {RIGHT} check 8 = 8 right </think> {SAYS[RIGHT]}"
)
CONFIRMS = f"<think> {RIGHT} check 8 = 8 right </think> {SAYS[RIGHT]}"
BREAKS = f"<think> {RIGHT} check 8 = 8 wrong wait {WRONG} </think> {SAYS[WRONG]}"
REPEATS = f"<think> {WRONG} check 12 = 8 wrong </think> {SAYS[WRONG]}"
CORRECT = {GUESS_RIGHT, CORRECTS, CONFIRMS}


def reply(text, step=0, question="q", **fields):
    given = {"prompt": PROMPT, "correct": text in CORRECT, "truncated": False}
    return Reply(step, question, text=text, tokens=len(text.split()), **(given | fields))


def write_jsonl(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
