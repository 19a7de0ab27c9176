"""SWE-bench Verified: predictions as the official harness reads them.

    python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Verified \\
        --predictions_path predictions.jsonl --run_id NAME

A model is asked once for a patch. R1's published figure is of the Agentless pipeline around it, so
the two are not alike.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from r1jax.files import write_whole

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)
_TAGGED = re.compile(r"<patch>\n?(.*?)</patch>", re.DOTALL)
_BEGINS = re.compile(r"^(?:diff --git |--- )", re.MULTILINE)


def patch_of(reply: str) -> str:
    """The last patch behind the thought: in <patch> tags, else in a fenced block, else from the
    first line of a diff on; "" if there is none."""
    text = reply.rpartition("</think>")[2]
    for pattern in (_TAGGED, _FENCE):
        found = [block for block in pattern.findall(text) if _BEGINS.search(block)]
        if found:
            return found[-1].strip("\n") + "\n"
    begins = _BEGINS.search(text)
    return text[begins.start() :].strip("\n") + "\n" if begins else ""


def write_predictions(path: Path, model: str, replies: Iterable[tuple[str, str]]) -> None:
    """replies: (instance id, whole reply)."""
    rows = (
        {"instance_id": name, "model_name_or_path": model, "model_patch": patch_of(reply)}
        for name, reply in replies
    )
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
