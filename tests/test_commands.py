"""Every command says what it is, and helps."""

import subprocess
import sys

import pytest

from experiments.__main__ import commands, main


def test_all_commands_are_listed_with_a_line(capsys):
    main()
    out = capsys.readouterr().out
    for name, line in commands().items():
        assert name in out and line in out and len(line) > 20
    assert {"r1_zero", "sft", "generate", "grade", "report"} <= commands().keys()
    assert "cli" not in commands()


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_works(name):
    command = [sys.executable, "-m", f"experiments.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"experiments.{name}" in done.stdout
