"""`rejection.sample`: what is kept and dropped, of replies that are written here; and the command
on the shipped model, stopped and gone on with."""

import json
from collections import Counter, defaultdict

import pytest
import tiny_run
from test_bad_input import error_of  # noqa: F401
from two_processes import finish, start

from experiments import rejection_sample
from r1jax.checks import InputError
from r1jax.config import SFTConfig
from r1jax.data.conversation import make_conversation
from r1jax.data.countdown import VOCABULARY, split
from r1jax.data.documents import read_documents
from r1jax.data.problems import Problem
from r1jax.data.tokenizer import Tokenizer
from r1jax.evaluation.local import Local
from r1jax.evaluation.replies import Reply
from r1jax.pipeline.rejection import SHARES, TWICE, Counts, RejectionConfig, sample
from r1jax.published import tiny
from r1jax.rewards.grading import Grader

PROBLEMS = [Problem(f"p{i}", "math", f"What is {i} plus one?", str(i + 1)) for i in range(7)]


class Written:
    """Replies by (number of the problem, sample): right where their sum is even, and then of one of
    two wordings."""

    name, form = "written", "r1_zero"

    def __init__(self, stop_after=None):
        self.left, self.asked = stop_after, []

    def refused(self, text):
        return "are too odd" if "6" in text else ""

    def prompt(self, text):
        return text

    def draw(self, asks, on_reply):
        for i, ask in reversed(list(enumerate(asks))):
            if self.left == 0:
                raise InputError("stopped")
            self.left = None if self.left is None else self.left - 1
            self.asked.append((ask.text, ask.sample))
            on_reply(i, self.reply(ask.text, ask.sample))

    @staticmethod
    def reply(text, sample):
        n = int(text.split()[2])
        answer = n + 1 if (n + sample) % 2 == 0 else 99
        thought = f"I add one to {n} in way {sample // 2 % 3} of three ways."
        body = f"<think> {thought} </think> <answer> {answer} </answer>"
        return Reply(body, 20, 10, "length" if sample == 5 else "stop")


@pytest.fixture(scope="module")
def grader():
    with Grader({"accuracy": 1.0}) as made:
        yield made


def rows(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def run(grader, out, replier=None, problems=PROBLEMS, **changes):
    more = {k: changes.pop(k) for k in ("against", "share", "identity") if k in changes}
    cfg = RejectionConfig(**{"k": 8, "keep": 2, "unasked": "drop", **changes})
    replier = replier or Written()
    return sample(replier, problems, grader, cfg, out, say=lambda _: None, **more)


def by_hand(k=8):
    """What each reply comes to, but for the choice among the good ones."""
    found = {}
    for problem in PROBLEMS[:6]:
        seen = set()
        for i in range(k):
            n, reply = int(problem.prompt.split()[2]), Written.reply(problem.prompt, i)
            if reply.truncated:
                found[problem.id, i] = "cut"
            elif (n + i) % 2:
                found[problem.id, i] = "wrong"
            elif reply.completion in seen:
                found[problem.id, i] = "duplicate"
            else:
                seen.add(reply.completion)
                found[problem.id, i] = "good"
    return found


def test_every_reply_is_where_it_belongs(grader, tmp_path):
    counts = run(grader, tmp_path)
    kept, dropped = rows(tmp_path / "kept.jsonl"), rows(tmp_path / "dropped.jsonl")
    expected, good = by_hand(), defaultdict(set)
    for (id, i), reason in expected.items():
        if reason == "good":
            good[id].add(i)
    found = {(r["id"], r.get("sample")): r["reason"] for r in dropped}
    assert found.pop(("p6", None)) == "are too odd"
    assert {r["id"]: r["model"] for r in kept} == dict.fromkeys(good, "written")
    for id, samples in good.items():
        chosen = {r["sample"] for r in kept if r["id"] == id}
        assert chosen <= samples and len(chosen) == min(2, len(samples))
        for i in samples - chosen:
            assert found.pop((id, i)) == "surplus"
    assert found == {key: reason for key, reason in expected.items() if reason != "good"}
    texts = {(p.id, i): Written.reply(p.prompt, i).completion for p in PROBLEMS for i in range(8)}
    replied = [r for r in [*kept, *dropped] if "sample" in r]
    assert all(r["completion"] == texts[r["id"], r["sample"]] for r in replied)
    assert all((r["prompt"], r["seed"]) == (f"What is {r['id'][1:]} plus one?", 0) for r in replied)
    told = Counter(r["reason"] for r in dropped if "sample" in r)
    assert {why: n for why, n in counts.dropped.items() if n} == told
    assert (counts.replies, counts.kept, counts.solved) == (48, len(kept), len(good))
    assert (counts.problems, counts.left_out, counts.asked) == (7, {"are too odd": 1}, 6)
    assert json.loads((tmp_path / "counts.json").read_text())["kept"] == counts.kept


def test_counts_add_up_or_are_refused():
    with pytest.raises(ValueError, match="does not add up"):
        Counts(1, {}, 3, 1, {"wrong": 1}, 1)
    lines = Counts(4, {TWICE: 1}, 6, 2, {"wrong": 3, "cut": 1, "surplus": 0}, 2).lines()
    assert [line.split()[-2:] for line in lines[:4]] == [
        ["4", "100.0%"], ["1", "25.0%"], ["3", "75.0%"], ["2", "50.0%"]
    ]  # fmt: skip
    assert sum(int(line.split()[1]) for line in lines[5:]) == 6 and "surplus" not in str(lines)


@pytest.mark.parametrize("stop", [0, 1, 17, 47])
def test_it_goes_on_where_it_was_stopped(grader, tmp_path, stop):
    run(grader, tmp_path / "whole")
    with pytest.raises(InputError, match="stopped"):
        run(grader, tmp_path / "out", Written(stop))
    assert not (tmp_path / "out" / "kept.jsonl").exists()
    again = Written()
    run(grader, tmp_path / "out", again)
    assert len(again.asked) == 48 - stop
    for name in ("kept.jsonl", "dropped.jsonl", "counts.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("n", [2, 3, 7, 9])
def test_the_parts_are_the_whole(grader, tmp_path, n):
    problems = [*PROBLEMS[:6], Problem("again", "math", PROBLEMS[0].prompt, "1")]
    run(grader, tmp_path / "whole", problems=problems)
    parts = {"kept.jsonl": b"", "dropped.jsonl": b""}
    total = 0
    for i in range(n):
        if not problems[7 * i // n : 7 * (i + 1) // n]:
            continue
        if problems[7 * i // n : 7 * (i + 1) // n] == problems[6:]:  # nothing of it is asked
            with pytest.raises(InputError, match="no question left"):
                run(grader, tmp_path / str(i), problems=problems, share=(i, n))
            continue
        total += run(grader, tmp_path / str(i), problems=problems, share=(i, n)).replies
        for name in parts:
            parts[name] += (tmp_path / str(i) / name).read_bytes()
    assert total == 48 and parts["kept.jsonl"] == (tmp_path / "whole" / "kept.jsonl").read_bytes()
    whole = {r["id"]: r for r in rows(tmp_path / "whole" / "dropped.jsonl")}
    assert whole["again"]["reason"] == TWICE and whole["again"]["detail"] == "of p0"


def test_other_filters_and_more_replies_draw_only_what_is_missing(grader, tmp_path):
    run(grader, tmp_path)
    again = Written()
    counts = run(grader, tmp_path, again, keep=0)
    assert not again.asked and counts.dropped["surplus"] == 0
    assert counts.kept == sum(reason == "good" for reason in by_hand().values())
    run(grader, tmp_path, again, k=10)
    assert sorted(i for _, i in again.asked) == [8] * 6 + [9] * 6
    chosen = [[r["sample"] for r in rows(tmp_path / "kept.jsonl")]]
    for seed in range(3):
        run(grader, tmp_path / str(seed), seed=seed)
        chosen.append([r["sample"] for r in rows(tmp_path / str(seed) / "kept.jsonl")])
    assert len({tuple(c) for c in chosen[1:]}) > 1


def test_what_a_benchmark_has_is_neither_asked_nor_learnt(grader, tmp_path):
    """A question that is short is looked for whole; a thought by ten words in a row."""
    told = "I add one to 2 in way 0 of three"
    against = [Problem("b/1", "math", PROBLEMS[1].prompt, "2"), Problem("b/2", "math", told, "3")]
    counts = run(grader, tmp_path, against=against, keep=0)
    found = {(r["id"], r.get("sample")): r for r in rows(tmp_path / "dropped.jsonl")}
    assert found["p1", None]["reason"] == SHARES and "b/1" in found["p1", None]["detail"]
    assert found["p2", 0]["reason"] == "contaminated" and "b/2" in found["p2", 0]["detail"]
    assert counts.dropped["contaminated"] == 2 and counts.left_out[SHARES] == 1  # samples 0 and 6


def test_bad_input_is_one_line(grader, tmp_path):
    run(grader, tmp_path / "a")
    for changes, said in [
        ({"temperature": 0.7}, "holds replies with temperature=1.0, not 0.7"),
        ({"share": (1, 2)}, r"holds replies with share=\[0, 1\], not \[1, 2\]"),
        ({"problems": [*PROBLEMS, PROBLEMS[0]]}, "2 problems have the id 'p0'"),
        ({"unasked": "stop"}, "1 questions are too odd, the first of them problems, p6"),
        ({"k": 0}, "--k must be positive"),
        ({"keep": -1}, "--keep must not be negative"),
        ({"share": (2, 2)}, "share 2 of 2"),
    ]:
        with pytest.raises(InputError, match=said):
            run(grader, tmp_path / "a", **changes)


# The command, on the shipped model.

SMALL = ("--limit=10", "--k=4", "--max-tokens=64", "--workers=1")
FILES = ("kept.jsonl", "dropped.jsonl", "counts.json")


def command(out, *flags):
    rejection_sample.main([f"--out={out}", *SMALL, *map(str, flags)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    command(out)
    return out


def same(out, other):
    return all((out / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def test_kept_rows_are_what_fine_tuning_reads(whole, tmp_path):
    cfg = SFTConfig(
        model=tiny(), base="embedded", tokenizer="", data=str(whole / "kept.jsonl"), length=128
    )
    conversation = make_conversation(Tokenizer.words(VOCABULARY), "")
    documents = read_documents(cfg, conversation)
    kept = rows(whole / "kept.jsonl")
    problems = {p.id: p for p in split(4)[0]}
    words = conversation.tokenizer.decode
    assert len(documents) == len(kept) > 1
    for row, (prompt, reply) in zip(kept, documents, strict=True):
        assert words(prompt) == f"{problems[row['id']].prompt} <think>"
        assert words(reply[:-1]) == row["completion"].removeprefix("<think> ")
        said = row["completion"].partition("<answer>")[2].split("<")[0]
        assert eval(said) == int(problems[row["id"]].answer) and row["tokens"] == len(reply)


@pytest.mark.parametrize("cut", [0, 500, -1])
def test_it_goes_on_behind_a_file_that_was_cut_anywhere(whole, tmp_path, cut):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sampling.json").write_bytes((whole / "sampling.json").read_bytes())
    (out / "replies.jsonl").write_bytes((whole / "replies.jsonl").read_bytes()[:cut])
    command(out, "--slots=8")
    assert same(out, whole)


def test_asked_again_it_draws_nothing(whole, monkeypatch, capsys):
    monkeypatch.setattr(Local, "draw", None)
    before = [(whole / name).read_bytes() for name in FILES]
    command(whole)
    assert before == [(whole / name).read_bytes() for name in FILES]
    out = capsys.readouterr().out
    assert "40 of 40 replies are there" in out and "kept.jsonl" in out.splitlines()[-1]


def test_the_command_refuses_in_one_line(tmp_path, error_of):  # noqa: F811
    def error(*flags):
        return error_of(f"--out={tmp_path / 'x'}", *flags, main=rejection_sample.main)

    assert "--shard=3/2: expected I/N" in error("--shard=3/2")
    assert "--shard=half: expected I/N" in error("--shard=half")
    assert "language 'xx' is not known" in error("--filters.language=xx")
    assert "--filters.min-language must lie in [0, 1]" in error("--filters.min-language=2")
    assert "no such directory" in error("--model=nowhere")
    assert "nowhere.jsonl" in error("--data=nowhere.jsonl")
    nothing = error(*SMALL, "--max-tokens=2")
    assert "nothing is kept: dropped.jsonl has the reasons" in nothing


SAMPLE = """
from experiments import cli, rejection_sample
cli.run(rejection_sample.main)
"""


@pytest.mark.slow
def test_on_two_processes_the_rows_are_the_same(whole, tmp_path):
    out = tmp_path / "out"
    flags = [f"--out={out}", "--mesh=4x2", *SMALL, "--distributed"]
    finish(start(SAMPLE, flags, tmp_path / "cache"))
    assert same(out, whole)


@pytest.mark.slow
def test_kill_9_loses_the_replies_under_way_at_most(whole, tmp_path):
    out = tmp_path / "out"
    tiny_run.killed_then_finished("experiments.rejection_sample", SMALL, out, tmp_path / "cache")
    assert same(out, whole)
