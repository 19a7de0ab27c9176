"""The map from papers to code: every name in it exists, and what is not here says why."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "r1jax" / "PAPERS.md").read_text("utf-8")
NAMES = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", TEXT)


def defined(file: Path) -> set[str]:
    """Names at the top of a file, and of classes their methods and fields, as Class.name."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        names = _names(node)
        found |= names
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in _names(inner)}
    return found


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMES}))
def test_every_name_exists(file):
    assert (ROOT / file).is_file()
    wanted = {name for other, name in NAMES if other == file and name}
    assert wanted <= defined(ROOT / file), wanted - defined(ROOT / file)


def rows(text):
    found = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in found if row[0].strip() != "in the paper"]


def test_every_row_names_code_or_says_why_not():
    here, missing = TEXT.split("## What is not here")
    assert len(rows(here)) > 35 and len(rows(missing)) > 5
    for row in rows(here):
        assert len(row) == 2 and re.search(r"`[\w/]+\.py", row[1]), row
    for row in rows(missing):
        assert len(row) == 2 and len(row[1]) > 10, row


def test_a_name_that_is_gone_is_found():
    assert "grpo_loss" in defined(ROOT / "r1jax/rl/grpo.py")
    assert "grpo_lost" not in defined(ROOT / "r1jax/rl/grpo.py")
    assert "Conversation.completion" in defined(ROOT / "r1jax/data/conversation.py")
    assert "RUNS" in defined(ROOT / "r1jax/presets.py")
