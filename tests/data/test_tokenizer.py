import json

import pytest

from r1jax.config import InputError
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


def test_reference_encodings(data_dir):
    """llama.cpp's vocabulary tests for DeepSeek-R1-Distill-Qwen: 47 texts, their ids."""
    folder = data_dir / "tokenizers" / "llama_cpp_tests"
    name = "ggml-vocab-deepseek-r1-qwen.gguf"
    texts = (folder / f"{name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [
        [int(i) for i in line.split()]
        for line in (folder / f"{name}.out").read_text().split("\n")[: len(texts)]
    ]
    assert len(texts) == len(expected) == 47
    tokenizer = Tokenizer.load(data_dir / "tokenizers" / "r1_distill_qwen")
    assert [tokenizer.encode(text) for text in texts] == expected


def save(folder, config=None):
    Tokenizer.words(VOCAB)._backend.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(config)
    return folder


def test_names_as_strings_or_objects(tmp_path):
    config = {"eos_token": {"content": "<eos>"}, "pad_token": "<pad>", "bos_token": None}
    tokenizer = Tokenizer.load(save(tmp_path, json.dumps(config)))
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (1, 0, None)
    assert tokenizer.encode("3 + 5") == [3, 5, 4]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"tokenizer\.json: no end-of-sequence token"),
        ("{", r"tokenizer_config\.json: invalid JSON"),
        ("[]", r"tokenizer_config\.json: expected a JSON object"),
        ('{"eos_token": 3}', r"tokenizer_config\.json: eos_token must be"),
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
