"""The corpus that the embedded base reads, and the file that it is kept in."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from experiments import pretrain_base
from r1jax import base
from r1jax.analysis.reflection import count_terms
from r1jax.base import EMBEDDED, BaseConfig, corpus_batch, load_weights, read_note, save_weights
from r1jax.checks import InputError
from r1jax.config import TIERS, CorpusConfig, OptimConfig
from r1jax.data import countdown
from r1jax.data.tokenizer import Tokenizer
from r1jax.pipeline import reinforcement
from r1jax.pipeline.reinforcement import base_weights
from r1jax.presets import r1_zero_tiny, tiny_base
from r1jax.sharding import make_mesh

N = 2000  # documents drawn
PROMPT = re.compile(r"(use|puzzle) (\d) (\d) (\d) (\d) to make (\d+) <think>")
REPLY = re.compile(r"(.*) </think> <answer> (.*) </answer>")
CHECK = re.compile(r" check (-?\d+) = (\d+) (right|wrong wait|wrong)(?: |$)")


def documents(**corpus):
    """[(prompt, reply)] about random problems of four numbers, searches to the end."""
    rng = np.random.default_rng(0)
    problems, cfg = countdown.problems(4), CorpusConfig(goes_on=1.0, **corpus)
    chosen = rng.integers(len(problems), size=N)
    return [countdown.document(problems[i], cfg, rng) for i in chosen]


def read(prompt, reply):
    """(first word, numbers, target, [(attempt, its check, its verdict)], answer)."""
    word, *numbers, target = PROMPT.fullmatch(prompt).groups()
    thoughts, answer = REPLY.fullmatch(reply).groups()
    attempt, *rest = CHECK.split(thoughts)
    attempts = [attempt, *rest[3::4]]
    attempts = attempts[:-1] if rest and not attempts[-1] else attempts
    checks = list(zip(rest[0::4], rest[1::4], rest[2::4], strict=True)) or [("", "", "")]
    return word, numbers, target, list(zip(attempts, checks, strict=True)), answer


def test_arithmetic_checks_and_answers_are_right():
    """Every running total by Python's own arithmetic, every verdict by its numbers."""
    for prompt, reply in documents(reflective=0.5, persistence=0.6):
        _, numbers, target, thoughts, answer = read(prompt, reply)
        for attempt, (result, wanted, verdict) in thoughts:
            expression, *running = attempt.split(" = ")
            for value, *signed in map(str.split, running):
                assert eval(expression) == int(value)
                expression = " ".join([expression, *signed])
            assert re.findall(r"\d+", expression) == numbers
            if verdict:
                assert (result, wanted) == (value, target)
                assert (verdict == "right") == (result == wanted)
        assert answer == expression  # the last attempt's


def test_reflection_never_repeats_an_attempt_and_ends_right_unless_it_gives_up():
    ends = set()
    for prompt, reply in documents(reflective=0.5, persistence=0.6):
        word, _, _, thoughts, _ = read(prompt, reply)
        attempts, verdicts = [a for a, _ in thoughts], [v for _, (*_, v) in thoughts]
        assert len(set(attempts)) == len(attempts) <= 8
        assert all(verdict == "wrong wait" for verdict in verdicts[:-1])
        ends.add((word, verdicts[-1]))
    assert ends == {("puzzle", "right"), ("use", "right"), ("use", "wrong"), ("use", "")}


@pytest.mark.parametrize("reflective, practice", [(0.02, 0.3), (0.5, 0.1), (1.0, 0.0), (0.0, 1.0)])
def test_shares_are_as_asked(reflective, practice):
    read_ones = [read(*doc) for doc in documents(reflective=reflective, practice=practice)]
    words = np.array([word for word, *_ in read_ones])
    reflects = np.array([bool(thoughts[0][1][2]) for *_, thoughts, _ in read_ones])

    for found, share in (words == "puzzle", practice), (reflects[words == "use"], reflective):
        # Four standard deviations of the count; none where the share is 0 or 1.
        error = 4 * (share * (1 - share) * found.size) ** 0.5
        assert abs(found.sum() - share * found.size) <= error
    assert reflects[words == "puzzle"].all()


def test_the_first_attempt_is_a_guess_one_in_eight():
    first = [read(*document)[3][0] for document in documents(practice=1.0)]
    right = [verdict == "right" for _, (*_, verdict) in first]
    assert abs(np.mean(right) - 1 / 8) < 4 * (1 / 8 * 7 / 8 / N) ** 0.5


def test_a_corpus_without_reflection_holds_no_reflective_term():
    for prompt, reply in documents(reflective=0.0, practice=0.0):
        assert not any(count_terms(f"{prompt} {reply}").values())
        assert len(read(prompt, reply)[3]) == 1 and prompt.startswith("use")


@pytest.mark.parametrize("tier, count", [(3, 475), (4, 1959), (5, 5834)])
def test_problems_are_those_that_exactly_one_way_solves(tier, count):
    """By evaluating all expressions of all sets of numbers."""
    want = set()
    for numbers in itertools.combinations_with_replacement("987654321", tier):
        signed = itertools.product(numbers[:1], *(("+" + n, "-" + n) for n in numbers[1:]))
        totals = [eval("".join(parts)) for parts in signed]
        once = [t for t in totals if t >= 0 and totals.count(t) == 1]
        want |= {(tuple(map(int, numbers)), str(t)) for t in once}
    assert {(p.numbers, p.answer) for p in countdown.problems(tier)} == want
    assert len(countdown.problems(tier)) == len(want) == count


def test_held_out_numbers_are_never_trained_on_and_tiers_are_read_equally_often():
    seen, unseen = {}, {}
    for tier, sets in (3, 165), (4, 495), (5, 1287):
        train, heldout = countdown.split(tier, 0.125)
        problems = countdown.problems(tier)
        assert sorted(p.id for p in train + heldout) == sorted(p.id for p in problems)
        seen[tier], unseen[tier] = ({p.numbers for p in side} for side in (train, heldout))
        assert not seen[tier] & unseen[tier] and len(unseen[tier]) == round(0.125 * sets)
    tokenizer = Tokenizer.words(countdown.VOCABULARY)
    asked = re.compile(r"(?:use|puzzle) ((?:\d )+)to make")
    drawn = []
    for step in range(20):
        for row_T in corpus_batch(
            tiny_base(CorpusConfig(tiers="3,4,5")), tokenizer, step
        ).tokens_BT:
            found = asked.findall(tokenizer.decode(row_T))
            drawn += [tuple(map(int, numbers.split())) for numbers in found]
    for tier, known in seen.items():
        mine = [numbers for numbers in drawn if len(numbers) == tier]
        assert set(mine) <= known and len(set(mine)) > 0.3 * len(known)
        share = 1 / 3
        assert abs(len(mine) - share * len(drawn)) < 4 * (share * (1 - share) * len(drawn)) ** 0.5


@pytest.mark.parametrize("tier", TIERS)
def test_the_longest_document_fits_a_row_and_a_reply_of_a_run(tier):
    always = CorpusConfig(practice=1.0, goes_on=1.0)
    tokenizer = Tokenizer.words(countdown.VOCABULARY)
    longest = 0
    for problem in countdown.problems(tier)[::97]:
        for seed in range(30):
            rng = np.random.default_rng(seed)
            prompt, reply = countdown.document(problem, always, rng)
            longest = max(longest, len(tokenizer.encode(f"{prompt} {reply}")) + 1)
    assert (70 if tier == 3 else 150) < longest <= tiny_base().length


WEIGHTS = small.weights()


def test_weights_come_back_as_float16_bit_for_bit(tmp_path):
    """And the selection biases, which move by 0.001, whole."""
    path = tmp_path / "folder" / "base.safetensors"
    note = {"recipe": {"seed": 3}, "digest": "abc"}
    save_weights(WEIGHTS, path, note)
    loaded = load_weights(path, small.CONFIG)
    want = jax.tree.map(lambda a: np.asarray(a, np.float16).astype(np.float32), WEIGHTS.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, want)
    np.testing.assert_array_equal(loaded.router_bias_LE, WEIGHTS.router_bias_LE)
    assert {a.dtype for a in jax.tree.leaves(loaded)} == {np.dtype("float32")}
    assert read_note(path) == note
    again = tmp_path / "again.safetensors"
    save_weights(loaded, again, note)
    assert again.read_bytes() == path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"d_model": 18}, r"params.embed_VD has shape \(16, 16\), this model \(16, 18\)"),
        ({"layers": 2}, r"params.moe.attention_norm_D has shape \(1, 16\), this model \(2, 16\)"),
        ({"mtp_depth": 1}, r"params.mtp.0.hidden_norm_D is missing"),
    ],
)
def test_weights_of_another_model_name_the_tensor(tmp_path, change, message):
    save_weights(WEIGHTS, tmp_path / "base.safetensors", {})
    with pytest.raises(InputError, match=f"base.safetensors: weights of another model: {message}"):
        load_weights(tmp_path / "base.safetensors", small.config(**change))


def test_half_a_file_is_one_clear_line(tmp_path):
    path = tmp_path / "base.safetensors"
    save_weights(WEIGHTS, path, {})
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"base.safetensors: ") as error:
        load_weights(path, small.CONFIG)
    assert "\n" not in str(error.value)


def test_the_embedded_base_is_small_and_made_by_the_recipe_that_the_presets_tell():
    assert EMBEDDED.stat().st_size < 2**20
    assert read_note(EMBEDDED)["digest"] == tiny_base().digest()
    cfg = r1_zero_tiny()
    loaded = base_weights(cfg, make_mesh("1"))
    jax.tree.map(np.testing.assert_array_equal, loaded, load_weights(EMBEDDED, cfg.model))


def test_how_a_model_runs_is_no_part_of_the_recipe_of_its_base():
    how = {"dtype": "bfloat16", "remat": "full", "experts_multiply": "grouped", "logits_chunk": 8}
    cfg = r1_zero_tiny()
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **how))
    loaded = base_weights(cfg, make_mesh("1"))
    jax.tree.map(np.testing.assert_array_equal, loaded, load_weights(EMBEDDED, cfg.model))


RECIPE = BaseConfig(
    model=small.config(vocab=len(countdown.VOCABULARY), context=176),
    corpus=CorpusConfig(),
    optim=OptimConfig(lr=4e-3, schedule="cosine", warmup=1, steps=3),
    rows=4,
)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"corpus": CorpusConfig(practice=0.2)}, {"rows": 5}, {"heldout_share": 0.2}],
)
def test_another_recipe_has_another_digest(change):
    assert dataclasses.replace(RECIPE, **change).digest() != RECIPE.digest()
    assert BaseConfig(**vars(RECIPE)).digest() == RECIPE.digest()


def test_making_a_base_is_deterministic_and_done_once(tmp_path, monkeypatch, capfd):
    """`--out=FILE` of one run, `--base=train` of another, and the cache between them."""
    for command in (pretrain_base, reinforcement):
        monkeypatch.setattr(command, "tiny_base", lambda *_: RECIPE)
    made = []
    for name in ("first", "second"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        pretrain_base.main([f"--out={tmp_path / name}.safetensors"])
        made.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert made[0] == made[1]
    assert str(tmp_path / "second.safetensors") in capfd.readouterr().err

    monkeypatch.setattr(base, "train_base", None)  # from here on, only the cache
    cfg = dataclasses.replace(r1_zero_tiny(), model=RECIPE.model, base="train")
    got = base_weights(cfg, make_mesh("1"))
    want = load_weights(tmp_path / "first.safetensors", RECIPE.model)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    start = base.optim.init_weights(RECIPE.model, jax.random.key(RECIPE.seed))
    assert not jnp.allclose(start.params.embed_VD, got.params.embed_VD, atol=1e-3)
