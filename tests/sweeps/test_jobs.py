"""What is done when, how far it is, and what is shown of it."""

import io
import json
import re
from pathlib import Path

import pytest
import rich.console

from r1jax.sweeps.grid import parse_grid
from r1jax.sweeps.jobs import Job, jobs_of, look, next_job, seconds_left, together
from r1jax.sweeps.plan import plan
from r1jax.sweeps.table import Board

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # of a terminal


@pytest.fixture(autouse=True)
def no_bases_made(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def members_of(out, **told):
    two = [{"name": "deep", "corpus": {"depth": 2}}, {"name": "deep and slow", "steps": 61,
           "corpus": {"depth": 2}}, {"name": "shipped", "steps": 70}]  # fmt: skip
    return plan(
        parse_grid({"configuration": two, "controls": [], "seeds": 2} | told, Path(".")), out
    )


def logged(job, *steps):
    job.folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": s, "reflection/fraction": 0.1 * s, "length/mean": None} for s in steps]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (job.folder / "metrics.jsonl").write_text(text + '{"step": 99, "torn')


def test_a_base_is_made_once_and_its_members_wait_for_it(tmp_path):
    base, *members = jobs_of(members_of(tmp_path))
    assert base.configuration == "" and len(members) == 6
    assert base.name.endswith("(of deep, seed 0)")
    assert [job.needs for job in members] == [(base,)] * 4 + [()] * 2
    assert next_job([base, *members]) is base
    base.state = "running"
    assert next_job([base, *members]) is members[4]  # what needs no base goes on meanwhile
    base.state = "finished"
    assert next_job([base, *members]) is members[0]


def test_what_needs_a_base_that_failed_fails_with_it(tmp_path):
    base, *members = jobs_of(members_of(tmp_path))
    base.state, base.error = "failed", "no space left"
    assert next_job([base, *members]) is members[4]
    assert {job.state for job in members[:4]} == {"failed"}
    assert members[0].error == "its base could not be made: no space left"


def test_what_learns_from_a_member_waits_for_it_and_fails_with_it(tmp_path):
    told = {"configuration": [{"name": "as it is"}], "controls": ["supervised"]}
    first, second, learns, _ = jobs = jobs_of(members_of(tmp_path, **told))
    assert learns.needs == (first,) and learns.order["member"]["learn_from"] == str(first.folder)
    first.state = second.state = "running"
    assert next_job(jobs) is None
    first.state = "finished"
    assert next_job(jobs) is learns
    second.state, second.error = "failed", "no space left"
    next_job(jobs)
    said = "as_it_is-seed_1, which it learns from, failed: no space left"
    assert [job.error for job in jobs] == ["", "no space left", "", said]


def test_finished_members_need_nothing(tmp_path):
    members = members_of(tmp_path)
    for member in members[:4]:
        member.folder.mkdir(parents=True)
        (member.folder / "run.json").write_text('{"status": "finished"}')
        (member.folder / "report.html").write_text("")
    jobs = jobs_of(members)
    assert [job.state for job in jobs] == ["finished"] * 4 + ["waiting"] * 2
    assert [job.step for job in jobs] == [60, 60, 61, 61, 0, 0]


def test_progress_is_read_off_the_log(tmp_path):
    job = Job("a", tmp_path / "a", {}, 10, configuration="a")
    look(job)
    assert (job.step, job.latest) == (0, {})
    logged(job, 0, 1, 2)
    look(job)
    assert job.step == 3 and job.latest["step"] == 2
    logged(job, *range(11))  # the last line, after all updates, is of no training step
    look(job)
    assert job.step == 10 and job.latest["step"] == 2


def test_time_left_is_of_what_this_session_did():
    jobs = [Job(n, Path(n), {}, 100, configuration="c") for n in "abc"]
    jobs[0].state, jobs[0].step, jobs[0].before = "running", 60, 50
    jobs[1].state, jobs[1].step, jobs[1].before = "finished", 100, 100
    assert seconds_left(jobs, 5.0) == 70.0  # 10 steps took 5 seconds, 40 + 100 are left
    jobs[0].before = 60
    assert seconds_left(jobs, 5.0) is None


def board(jobs, terminal):
    console = rich.console.Console(
        file=io.StringIO(), width=80, force_terminal=terminal, color_system=None
    )
    return Board(jobs, console), console.file


def some():
    jobs = [
        Job(f"{c}-seed_{i}", Path(f"{c}{i}"), {}, 10, configuration=c) for c in "ab" for i in (0, 1)
    ]
    jobs[0].state, jobs[0].step = "finished", 10
    jobs[0].latest = {"reflection/fraction": 0.5, "reward/accuracy": 0.2, "length/mean": None}
    jobs[1].state, jobs[1].step = "running", 4
    jobs[1].latest = {"reflection/fraction": 0.3}
    jobs[2].state, jobs[2].error = "failed", "no space left"
    return jobs


def test_a_line_for_each_job_that_changes_where_there_is_no_terminal():
    jobs = some()
    shown, file = board(jobs, terminal=False)
    with shown:
        for job in (jobs[1], jobs[0], jobs[2], None):
            shown.show(job)
    lines = file.getvalue().splitlines()
    assert lines[0] == "begins at step 4: a-seed_1"
    assert lines[1].startswith("finished: a-seed_0 (1 of 4 members, 1 failed, 0:00:")
    assert lines[2].startswith("failed: b-seed_0: no space left (1 of 4 members")
    assert len(lines) == 3


def test_the_live_table_has_a_row_a_configuration():
    jobs = some()
    shown, file = board(jobs, terminal=True)
    with shown:
        shown.show(None)
    lines = [line.rstrip() for line in CODES.sub("", file.getvalue()).splitlines()]
    a = next(line for line in lines if line.startswith("a "))
    assert a.split() == ["a", "✓", "40%", "40%", "20%"]  # the marks; reflects, right
    assert any(line.split() == ["b", "✗", "·"] for line in lines)
    assert "failed: b-seed_0: no space left" in lines
    assert any(line.startswith("1 of 4 members, 1 failed") for line in lines)
    assert max(map(len, lines)) <= 80


def test_members_of_one_program_are_one_job_and_the_others_ride(tmp_path):
    jobs = jobs_of(members_of(tmp_path))
    base, *members = jobs
    programs = {job.folder: "a" for job in members[:5]} | {members[5].folder: None}
    together(jobs, programs, most=3)
    first, second = members[0], members[3]
    assert first.riders == tuple(members[1:3]) and second.riders == (members[4],)
    assert [order["folder"] for order in first.order["members"]] == [
        str(job.folder) for job in members[:3]
    ]
    assert first.needs == (base,) and second.needs == (base,)
    assert members[5].riders == () and "member" in members[5].order
    base.state = "finished"
    begun = []
    while (job := next_job(jobs)) is not None:
        job.state = "running"
        begun.append(job)
    assert begun == [first, second, members[5]]
