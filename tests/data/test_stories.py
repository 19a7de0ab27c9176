"""Problems of three words: what is asked, what is held out, and that a cut story counts."""

import dataclasses
import math

import pytest

from r1jax.data.stories import WORDS, problems, split
from r1jax.data.tasks import make_task
from r1jax.data.tokenizer import Tokenizer
from r1jax.presets import stories
from r1jax.rewards.words import share_of_words


def test_every_three_words_once_and_the_prompt_names_them():
    sets = {frozenset(p.answer.split()) for p in problems()}
    assert len(sets) == len(problems()) == math.comb(len(WORDS), 3) == 9_880
    assert len({p.id for p in problems()}) == 9_880
    for p in problems():
        assert share_of_words(p.prompt, p.answer) == 1
        assert p.prompt.startswith("Once upon a time, there was a ")
    assert not any(word[0] in "aeiou" for word in WORDS)


def test_no_three_heldout_words_are_trained_on_in_any_order():
    train, heldout = split(0.125)
    ours, theirs = ({frozenset(p.answer.split()) for p in side} for side in (train, heldout))
    assert len(heldout) == 1_235 and len(train) + len(heldout) == 9_880 and not ours & theirs
    # But each word is: what is held out is how they are put together.
    assert {w for s in ours for w in s} == {w for s in theirs for w in s} == set(WORDS)


@pytest.fixture(scope="module")
def folder(data_dir):
    return data_dir / "stories260k" / "hf"


def test_prompts_fit_the_preset(folder):
    tokenizer = Tokenizer.load(folder)
    longest = max(len(tokenizer.encode_prompt(p.prompt)) for p in problems())
    assert longest <= stories().sampling.max_prompt


def test_replies_end_with_eos_or_where_the_next_story_begins(folder):
    task = make_task(dataclasses.replace(stories(), tokenizer=str(folder)))
    assert task.tokenizer.end_ids == {1, 2} and task.tokenizer.eos_ids == {2}
    ids = task.tokenizer.encode("The cat sat.")
    assert task.text([*ids, 1]) == task.text([*ids, 2]) == task.text(ids) == "The cat sat."
    assert task.prompt(task.train[0])[0] == 1
