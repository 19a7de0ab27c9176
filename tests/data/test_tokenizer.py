import functools
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, processors

from r1jax.checks import InputError
from r1jax.data import tokenizer as module
from r1jax.data.tokenizer import Tokenizer

VOCAB = ["<pad>", "<eos>", "use", "3", "5", "+", "<think>"]


def test_words_round_trip():
    tokenizer = Tokenizer.words(VOCAB)
    ids = tokenizer.encode("use 3 5\n<think>  3 + 5 <eos>")
    assert ids == [2, 3, 4, 6, 3, 5, 4, 1]
    assert tokenizer.decode(ids) == "use 3 5 <think> 3 + 5 <eos>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "use 3 5 <think> 3 + 5"
    assert tokenizer.encode("") == []
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id) == (7, 0, 1)
    assert tokenizer.bos_id is None
    assert Tokenizer.words([*VOCAB, "<bos>"]).bos_id == 7


def test_decode_goes_on_after_eos():
    assert Tokenizer.words(VOCAB).decode([3, 1, 4, 0]) == "3 <eos> 5 <pad>"


def test_unknown_word_is_named():
    with pytest.raises(InputError, match="'seven' is not in the vocabulary"):
        Tokenizer.words(VOCAB).encode("use seven 5")


def test_lone_surrogate():
    with pytest.raises(InputError, match="not Unicode"):
        Tokenizer.words(VOCAB).encode(json.loads('"3 \\ud83d"'))


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (["<pad>", "a"], "'<eos>'"),
        (["<eos>", "a"], "'<pad>'"),
        ([*VOCAB, "3"], "twice"),
        ([*VOCAB, "a b"], "white space"),
        ([*VOCAB, ""], "empty"),
    ],
)
def test_bad_vocabulary(vocab, message):
    with pytest.raises(InputError, match=message):
        Tokenizer.words(vocab)


@pytest.fixture(scope="module")
def deepseek(data_dir):
    return Tokenizer.load(data_dir / "tokenizers" / "deepseek_r1")


def test_deepseek_r1(deepseek):
    assert (deepseek.bos_id, deepseek.eos_id, deepseek.pad_id) == (0, 1, 1)
    assert deepseek.vocab_size == 128_815
    text = "<think>\nWait, 2+2=4. 你好 🙂</think>"
    ids = deepseek.encode(text)
    assert (ids[0], ids[-1]) == (128_798, 128_799)  # and no BOS before
    assert deepseek.decode(ids) == text
    assert deepseek.decode([1, 129_279]) == "<｜end▁of▁sentence｜>"  # embedding padding: no token


def test_qwen_without_config_and_by_file(data_dir):
    tokenizer = Tokenizer.load(data_dir / "tokenizers" / "qwen2_5" / "tokenizer.json")
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (151_645, 151_645, None)
    assert tokenizer.vocab_size == 151_665


def test_small_llama(data_dir):
    tokenizer = Tokenizer.load(data_dir / "stories260k" / "hf")
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (512, 1, 2)
    assert tokenizer.decode(tokenizer.encode("Once upon a time")).strip() == "Once upon a time"


def reference(data_dir):
    """llama.cpp's vocabulary tests for DeepSeek-R1-Distill-Qwen and Qwen2: 47 texts, their ids."""
    folder = data_dir / "tokenizers" / "llama_cpp_tests"
    name = "ggml-vocab-deepseek-r1-qwen.gguf"
    texts = (folder / f"{name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [
        [int(i) for i in line.split()]
        for line in (folder / f"{name}.out").read_text().split("\n")[: len(texts)]
    ]
    assert len(texts) == len(expected) == 47
    return texts, expected


@pytest.mark.parametrize("name", ["r1_distill_qwen", "qwen2_5"])
def test_reference_encodings(data_dir, name):
    texts, expected = reference(data_dir)
    tokenizer = Tokenizer.load(data_dir / "tokenizers" / name)
    assert [tokenizer.encode(text) for text in texts] == expected
    assert [tokenizer.decode(ids) for ids in expected] == texts


def test_deepseek_gives_reference_texts_back(data_dir, deepseek):
    """No ids are published for these, but its merges and its regular expressions lose nothing."""
    for text in reference(data_dir)[0]:
        assert deepseek.decode(deepseek.encode(text)) == text


def test_prompts_begin_with_one_bos(data_dir, deepseek):
    assert deepseek.encode_prompt("<think>") == [0, 128_798]
    assert deepseek.encode_prompt("<｜begin▁of▁sentence｜><think>") == [0, 128_798]
    assert deepseek.encode_prompt("<think><｜begin▁of▁sentence｜>") == [0, 128_798, 0]
    assert deepseek.encode_prompt("") == [0]
    qwen = Tokenizer.load(data_dir / "tokenizers" / "qwen2_5")
    assert qwen.encode_prompt("hello") == qwen.encode("hello")


TOKENIZERS = [
    "tokenizers/deepseek_r1",
    "tokenizers/qwen2_5",
    "tokenizers/r1_distill_qwen",
    "stories260k/hf",
]
SPREAD = "aé 你好🙂👩‍👩‍👧e\u0301ก็\n<"  # characters of one to four bytes, some joined to the next


@pytest.fixture(scope="module", params=TOKENIZERS)
def published(request, data_dir):
    return Tokenizer.load(data_dir / request.param)


@functools.cache
def some_ids(tokenizer):
    """Ids of all kinds in any order: bytes that do and do not make characters, whole words,
    special tokens, ids without a token."""
    names = [tokenizer._backend.id_to_token(i) or "" for i in range(tokenizer.vocab_size)]
    short = [i for i, name in enumerate(names) if len(name) == 1 or name.startswith("<0x")]
    added = list(tokenizer._backend.get_added_tokens_decoder())
    one = st.integers(0, tokenizer.vocab_size + 50) | st.sampled_from(added)
    text = st.text(SPREAD + "\ufffd", max_size=5).map(tokenizer.encode)
    parts = one.map(lambda i: [i]) | st.lists(st.sampled_from(short), max_size=6) | text
    return st.lists(parts, max_size=8).map(lambda parts: list(itertools.chain(*parts)))


@settings(deadline=None, max_examples=400)
@given(data=st.data(), skip=st.booleans())
def test_stream_is_decode(published, data, skip):
    ids = data.draw(some_ids(published))
    stream = published.stream(skip_special_tokens=skip)
    shown, in_a_row = "", False
    for n, token in enumerate(ids, 1):
        shown += stream.feed(token)
        rest = published.decode(ids[:n], skip).removeprefix(shown)
        # Held back: bytes that SentencePiece wrote in a row, or an unfinished character at most
        # (two U+FFFD for ED A0, half a surrogate pair, after which Python waits for a third byte).
        if published.decode([token, token], skip):  # twice, for a leading space is dropped
            in_a_row = published._backend.id_to_token(token).startswith("<0x")
        assert rest in ("", "\ufffd", "\ufffd\ufffd") or in_a_row
    assert shown + stream.flush() == published.decode(ids, skip)
    assert stream.flush() == ""


@settings(deadline=None)
@given(text=st.text(SPREAD, max_size=20) | st.text(max_size=10).filter(lambda t: "\ufffd" not in t))
def test_stream_shows_no_broken_characters(published, text):
    ids = published.encode(text)
    stream = published.stream()
    pieces = [*map(stream.feed, ids), stream.flush()]
    assert "".join(pieces) == published.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, len(VOCAB) + 2)), skip=st.booleans())
def test_stream_of_words(ids, skip):
    tokenizer = Tokenizer.words([*VOCAB, "<0xE2>"])
    stream = tokenizer.stream(skip)
    assert "".join([*map(stream.feed, ids), stream.flush()]) == tokenizer.decode(ids, skip)


def test_stream_waits_for_the_character(data_dir, deepseek):
    ids = deepseek.encode("🤷")
    assert len(ids) > 1
    stream = deepseek.stream()
    assert [stream.feed(i) for i in ids] == [""] * (len(ids) - 1) + ["🤷"]
    assert stream.flush() == ""
    assert stream.feed(ids[0]) + stream.flush() == "\ufffd"  # cut there

    small = Tokenizer.load(data_dir / "stories260k" / "hf")
    stream = small.stream()
    pieces = [stream.feed(i) for i in small.encode("Once🙂 a")]
    # "Once", four bytes (a fifth that follows them could still spoil all), " a"
    assert pieces == ["Once", "", "", "", "", "🙂 a"]


@pytest.mark.parametrize("token", [5, 229, 300])  # of stories260k: raw bytes, and a piece
def test_stream_of_many_tokens_is_quick(data_dir, token):
    """Takes minutes if each token decodes all before it."""
    tokenizer = Tokenizer.load(data_dir / "stories260k" / "hf")
    stream = tokenizer.stream()
    text = "".join(stream.feed(token) for _ in range(30_000)) + stream.flush()
    assert text == tokenizer.decode([token] * 30_000)


def test_byte_alphabet_is_the_librarys():
    assert set(module._BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(module._BYTE_OF.values()) == list(range(256))


def save(folder, config=None, vocab=VOCAB, post_processor=None):
    backend = Tokenizer.words(vocab)._backend
    if post_processor is not None:
        backend.post_processor = post_processor
    backend.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(config)
    return folder


def test_names_as_strings_or_objects(tmp_path):
    config = {"eos_token": {"content": "<eos>"}, "pad_token": "<pad>", "bos_token": None}
    tokenizer = Tokenizer.load(save(tmp_path, json.dumps(config)))
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (1, 0, None)
    assert tokenizer.encode("3 + 5") == [3, 5, 4]


ADDS_BOS = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 7)])
ADDS_EOS = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])


@pytest.mark.parametrize(
    ("add_bos_token", "post_processor", "bos_id"),
    [
        (True, None, 7),
        (False, ADDS_BOS, None),  # the config has the last word
        (None, ADDS_BOS, 7),
        (None, ADDS_EOS, None),
        (None, None, None),
    ],
)
def test_whether_prompts_begin_with_bos(tmp_path, add_bos_token, post_processor, bos_id):
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "add_bos_token": add_bos_token}
    folder = save(tmp_path, json.dumps(config), [*VOCAB, "<bos>"], post_processor)
    assert Tokenizer.load(folder).bos_id == bos_id


@pytest.mark.parametrize(
    ("generation", "config", "eos_ids"),
    [
        (None, None, {1}),
        (None, {"eos_token_id": 4}, {1, 4}),
        (None, {"eos_token_id": None}, {1}),
        ({"eos_token_id": [5, 6]}, {"eos_token_id": 4}, {1, 5, 6}),
        ({"temperature": 0.6}, {"eos_token_id": 4}, {1, 4}),
    ],
)
def test_every_token_that_ends_a_reply(tmp_path, generation, config, eos_ids):
    for name, value in (("generation_config", generation), ("config", config)):
        if value is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(value))
    tokenizer = Tokenizer.load(save(tmp_path, '{"eos_token": "<eos>"}'))
    assert (tokenizer.eos_ids, tokenizer.eos_id) == (eos_ids, 1)


@pytest.mark.parametrize("value", ['"</s>"', "true", "-1", "1.5", "[1, null]", "{}"])
def test_bad_eos_token_id(tmp_path, value):
    (tmp_path / "config.json").write_text(f'{{"eos_token_id": {value}}}')
    with pytest.raises(InputError, match=r"/config\.json: eos_token_id must be .* got") as error:
        Tokenizer.load(save(tmp_path, '{"eos_token": "<eos>"}'))
    assert "\n" not in str(error.value)


def test_eos_token_id_of_another_model(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 151643}')
    message = r"generation_config\.json: eos_token_id 151643 is not in .*tokenizer\.json"
    with pytest.raises(InputError, match=message):
        Tokenizer.load(save(tmp_path, '{"eos_token": "<eos>"}'))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"tokenizer\.json: no end-of-sequence token"),
        ("{", r"tokenizer_config\.json: invalid JSON"),
        ("[]", r"tokenizer_config\.json: expected a JSON object"),
        ('{"eos_token": 3}', r"tokenizer_config\.json: eos_token must be"),
        (
            '{"eos_token": "<eos>", "bos_token": "3", "add_bos_token": 1}',
            r"tokenizer_config\.json: add_bos_token must be true or false, got 1",
        ),
        ('{"eos_token": "<end>"}', r"tokenizer\.json: special token '<end>'"),
    ],
)
def test_bad_directories(tmp_path, config, message):
    with pytest.raises(InputError, match=message) as error:
        Tokenizer.load(save(tmp_path, config))
    assert "\n" not in str(error.value)


def test_missing_or_malformed_file(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer\.json"):
        Tokenizer.load(tmp_path)
