"""One tokenizer interface over word-level vocabularies and published `tokenizer.json` files.

Neither direction adds or removes anything by itself: `encode` adds no special token (the caller
knows where a prompt begins) and `decode` shows them, so that a logged sample is what was written.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers

from r1jax.config import InputError, check

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"

# How DeepSeek, Qwen and Llama name them, for directories without a tokenizer_config.json.
EOS_NAMES = ("<｜end▁of▁sentence｜>", "<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>")
BOS_NAMES = ("<｜begin▁of▁sentence｜>", "<s>", "<|begin_of_text|>")


class Tokenizer:
    """Text <-> token ids; made by `Tokenizer.words` or `Tokenizer.load`.

    vocab_size: largest id + 1, added tokens included (a model's embedding may be larger).
    bos_id, eos_id, pad_id: pad is eos where the model has no token of its own for it.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos: str, pad: str, bos: str | None = None):
        ids = backend.get_vocab(with_added_tokens=True)
        for name in (eos, pad, bos):
            check(name is None or name in ids, f"special token {name!r} is not in the vocabulary")
        self._backend = backend
        self.vocab_size = max(ids.values()) + 1
        self.eos_id: int = ids[eos]
        self.pad_id: int = ids[pad]
        self.bos_id: int | None = None if bos is None else ids[bos]

    @classmethod
    def words(cls, vocab: Sequence[str]) -> "Tokenizer":
        """One id a word, in the order given; words are separated by white space.

        The vocabulary must hold "<pad>" and "<eos>" and may hold "<bos>". Raises InputError for
        a vocabulary that lacks them, repeats a word or has one with white space inside.
        """
        for word in vocab:
            check(word.split() == [word], f"vocabulary word {word!r} is empty or has white space")
        ids = {word: i for i, word in enumerate(vocab)}
        check(len(ids) == len(vocab), "a word appears twice in the vocabulary")
        backend = tokenizers.Tokenizer(models.WordLevel(ids))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens([name for name in (PAD, BOS, EOS) if name in ids])
        # With no decoder set, the library joins tokens with one space.
        return cls(backend, EOS, PAD, BOS if BOS in ids else None)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a `tokenizer.json`, or the directory that holds it.

        bos, eos and pad come from the `tokenizer_config.json` beside it, else from the names in
        use (EOS_NAMES, BOS_NAMES). Raises InputError, naming the file, if either is malformed or
        there is no end-of-sequence token.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        check(file.is_file(), f"{file}: no such file")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"{file}: not a tokenizer.json: {error}") from None
        # Some published files carry the settings of the run that saved them.
        backend.no_truncation()
        backend.no_padding()

        special = {token.content for token in backend.get_added_tokens_decoder().values()}
        names = _read_names(file.with_name("tokenizer_config.json"))
        if names is None:
            names = {"bos_token": next((name for name in BOS_NAMES if name in special), None)}
        eos = names.get("eos_token") or next((name for name in EOS_NAMES if name in special), None)
        if eos is None:
            raise InputError(f"{file}: no end-of-sequence token found")
        try:
            return cls(backend, eos, names.get("pad_token") or eos, names.get("bos_token"))
        except InputError as error:
            raise InputError(f"{file}: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Token ids of the text. A word outside a word-level vocabulary raises InputError."""
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower, and names no word
            unknown = (word for word in text.split() if self._backend.token_to_id(word) is None)
            word = next(unknown, None)
            if word is None:
                raise
            raise InputError(f"the word {word!r} is not in the vocabulary") from error

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of all ids, past any eos; an id that no token has (padding of a model's
        embedding) is left out."""
        ids = [int(i) for i in ids]
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)


def _read_names(file: Path) -> dict[str, str | None] | None:
    """The special tokens that a tokenizer_config.json names; None if there is no such file."""
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: invalid JSON: {error}") from None
    check(isinstance(config, dict), f"{file}: expected a JSON object")
    names = {}
    for field in ("bos_token", "eos_token", "pad_token"):
        value = config.get(field)
        name = value.get("content") if isinstance(value, dict) else value
        check(name is None or isinstance(name, str), f"{file}: {field} must be a string or null")
        names[field] = name
    return names
