"""Lists the commands: python -m experiments."""

import ast
from pathlib import Path

HERE = Path(__file__).parent
SHARED = {"__init__", "__main__", "cli", "rewrites", "bench_transformers"}  # no commands


def commands() -> dict[str, str]:
    """Of each command, the first sentence of its docstring; nothing is imported."""
    about = {}
    for path in sorted(HERE.glob("*.py")):
        if path.stem not in SHARED:
            text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            about[path.stem] = " ".join(text.partition("\n\n")[0].split())
    return about


def main() -> None:
    print("python -m experiments.NAME [--help]\n")
    for name, line in commands().items():
        print(f"  {name:<16} {line}")


if __name__ == "__main__":
    main()
