"""Lists the commands: python -m experiments."""

import ast
from pathlib import Path

HERE = Path(__file__).parent
# Every command, by what one wants with it; a package by its name.
GROUPS = {
    "train": ("r1", "r1_zero", "sft", "distill", "reward_model", "pretrain_base", "pretrain_world"),
    "use": ("generate", "serve", "evaluate", "grade", "report", "export", "fit", "checkpoints"),
    "data": ("filter_data", "rejection_sample"),
    "reflection": ("emergence", "intervene", "baseline", "ablate_reflection"),
    "measure": (
        "bench",
        "bench.update",
        "bench.engine",
        "bench.agreement",
        "bench.grading",
        "bench.transformers",
        "bench.dense",
        "bench.attention",
        "bench.experts",
        "bench.serving",
        "bench.drafts",
        "bench.safety",
        "bench.grader_rates",
    ),
}


def commands() -> dict[str, str]:
    """Of each command, the first sentence of its docstring; nothing is imported."""
    return {name: _about(name) for group in GROUPS.values() for name in group}


def _about(name: str) -> str:
    path = HERE.joinpath(*name.split("."))
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def main() -> None:
    about = commands()
    width = max(map(len, about))
    print("python -m experiments.NAME [--help]")
    for group, names in GROUPS.items():
        print(f"\n{group}")
        for name in names:
            print(f"  {name:{width}}  {about[name]}")


if __name__ == "__main__":
    main()
