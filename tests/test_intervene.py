"""python -m experiments.intervene, from the flags to the file and the table."""

import json

import pytest

from experiments import intervene
from r1jax.analysis.emergence.causes import read_causes
from r1jax.checks import InputError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """What is written of the embedded base, and what was printed."""
    out = tmp_path_factory.mktemp("base") / "base.json"
    flags = ["--questions=6", "--samples=2", "--max-tokens=30", f"--out={out}"]
    intervene.main(["embedded", "--conditions=ban,placebo,force_wait_1,force_0_1", *flags])
    return out


def test_it_writes_what_the_verdict_reads(base):
    raw = json.loads(base.read_text())
    names = ["none", "placebo", "ban", "force_0_1", "force_wait_1"]
    assert list(raw["conditions"]) == names and len(raw["questions"]) == 6
    assert raw["samples"] == 2 and raw["max_tokens"] == 30
    assert set(raw["words"]["ban"]["tokens"]) == {"check", "right", "wrong", "wait"}
    assert len(raw["words"]["placebo"]["tokens"]) == 4
    assert not any(raw["reflects"]["ban"])
    causes = read_causes(raw, str(base))
    assert set(causes.beyond) == {"ban", "force_wait_1"} and causes.ban_beyond_placebo.n == 6
    assert causes.effects["force_wait_1"].tokens > 0


def test_nothing_is_overwritten(base):
    before = base.read_bytes()
    with pytest.raises(InputError, match=r"base.json is there already: remove it, or give another"):
        intervene.main(["embedded", f"--out={base}"])
    assert base.read_bytes() == before and list(base.parent.iterdir()) == [base]


@pytest.mark.parametrize(
    "args, says",
    [
        ([], "a run is needed: python -m experiments.intervene runs/r1_zero"),
        (["nowhere"], "nowhere: no such directory, and not a Hub id"),
        (["embedded"], "--out=FILE is needed: embedded is not the folder of an RL run"),
        (
            ["embedded", "--conditions=bann"],
            "conditions=bann: there are none, .*did you mean ban",
        ),
        (["embedded", "--conditions=force_wait_3"], "force_wait_3: there are none"),
        (["embedded", "--samples=0"], "--samples must be positive, got 0"),
        (["embedded", "--questions=1"], "--questions must be at least 2, or all, got 1"),
        (["embedded", "--temperature=-1"], "--temperature must be finite and not negative, got -1"),
        (["embedded", "--out=no/such/file.json"], "--out=no/such/file.json: no such folder"),
        (["embedded", "--out=x.json", "--max-tokens=400"], "--max-tokens=400: with the longest"),
        (["embedded", "--neutral=hmm", "--out=x.json"], "to force neutral: the word 'hmm' is not"),
        (["embedded", "--sample=3"], "Unrecognized options: --sample=3: did you mean --samples"),
    ],
)
def test_bad_input_is_one_line(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says) as error:
        intervene.main(args)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_model_that_is_no_run_has_no_held_out_questions(data_dir):
    folder = str(data_dir / "stories260k" / "hf")
    with pytest.raises(InputError, match=r"so it has no held-out questions: give some by --data"):
        intervene.main([folder, "--out=x.json"])


def test_a_vocabulary_without_the_terms_is_one_line(data_dir, tmp_path):
    """Its 512 pieces spell them."""
    folder, data = str(data_dir / "stories260k" / "hf"), tmp_path / "asked.jsonl"
    rows = [{"id": i, "kind": "math", "prompt": "?", "answer": "1"} for i in ("a", "b")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match='hf: no token of its vocabulary holds "wait"'):
        intervene.main([folder, f"--data={data}", "--conditions=ban_wait", "--out=x.json"])
