"""One tokenizer interface over word-level vocabularies and published `tokenizer.json` files.

Neither direction adds or removes anything by itself: `encode` adds no special token (only
`encode_prompt` does) and `decode` shows them, so that a logged sample is what was written.
"""

import codecs
import copy
import functools
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from r1jax.checks import InputError, check
from r1jax.files import read_object

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"

# How DeepSeek, Qwen and Llama name them, for directories without a tokenizer_config.json.
EOS_NAMES = ("<｜end▁of▁sentence｜>", "<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>")
BOS_NAMES = ("<｜begin▁of▁sentence｜>", "<s>", "<|begin_of_text|>")


class Tokenizer:
    """Text <-> token ids; made by `Tokenizer.words` or `Tokenizer.load`.

    vocab_size: largest id + 1, added tokens included (a model's embedding may be larger).
    bos_id: the token that prompts begin with; None where the model was trained without one.
    eos_id, pad_id: pad is eos where the model has no token of its own for it.
    eos_ids: every token that the model is told ends a reply, eos_id among them.
    end_ids: eos_ids and bos, with which a base model that goes on begins another document.
    added_ids: the tokens that stand beside the vocabulary proper, all special ones among them.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        eos: str,
        pad: str,
        bos: str | None = None,
        stops: Iterable[int] = (),
    ):
        ids = backend.get_vocab(with_added_tokens=True)
        for name in (eos, pad, bos):
            check(name is None or name in ids, f"special token {name!r} is not in the vocabulary")
        self._backend = backend
        self.vocab_size = max(ids.values()) + 1
        self.eos_id: int = ids[eos]
        self.pad_id: int = ids[pad]
        self.bos_id: int | None = None if bos is None else ids[bos]
        self.eos_ids = frozenset((self.eos_id, *stops))
        self.end_ids = self.eos_ids | ({self.bos_id} if self.bos_id is not None else set())
        self.added_ids = frozenset(backend.get_added_tokens_decoder())

    def ending(self, *ids: int) -> "Tokenizer":
        """The same, to which these tokens, too, end a reply."""
        other = copy.copy(self)
        other.eos_ids, other.end_ids = self.eos_ids | set(ids), self.end_ids | set(ids)
        return other

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

    def save(self, folder: str | Path) -> None:
        """Writes a tokenizer.json, and a tokenizer_config.json that names its special tokens, as
        `load` and Transformers read them."""
        self._backend.save(str(Path(folder) / "tokenizer.json"))
        named = {"eos_token": self.eos_id, "pad_token": self.pad_id, "bos_token": self.bos_id}
        config: dict[str, Any] = {
            name: self._backend.id_to_token(i) for name, i in named.items() if i is not None
        }
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["add_bos_token"] = self.bos_id is not None
        text = json.dumps(config, indent=2) + "\n"
        (Path(folder) / "tokenizer_config.json").write_text(text, "utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a `tokenizer.json`, or the directory that holds it.

        What stands beside it is read too. `tokenizer_config.json` names bos, eos and pad (else the
        names in use, EOS_NAMES and BOS_NAMES) and says whether prompts begin with bos (else the
        post-processor of tokenizer.json does). `generation_config.json`, else `config.json`, may
        give more ids that end a reply. Raises InputError, naming the file, for one that is
        malformed or names a token that is not there, or if there is no end-of-sequence token.
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
        config_file = file.with_name("tokenizer_config.json")
        config = read_object(config_file)
        names: dict[str, str] = {}
        if config is None:
            bos = next((name for name in BOS_NAMES if name in special), None)
        else:
            names = special_tokens(config, config_file)
            bos = names.get("bos_token")
            if bos is not None and not _begins_with(bos, backend, config, config_file):
                bos = None
        eos = names.get("eos_token") or next((name for name in EOS_NAMES if name in special), None)
        if eos is None:
            raise InputError(f"{file}: no end-of-sequence token found")
        stops = _stop_ids(file, backend)
        try:
            return cls(backend, eos, names.get("pad_token") or eos, bos, stops)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Token ids of the text. A word outside a word-level vocabulary raises InputError, and so
        does half a surrogate pair, which JSON can hold but no text."""
        check(not _SURROGATE.search(text), "the text is not Unicode: it has a lone surrogate")
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower, and names no word
            unknown = (word for word in text.split() if self._backend.token_to_id(word) is None)
            word = next(unknown, None)
            if word is None:
                raise
            raise InputError(f"the word {word!r} is not in the vocabulary") from error

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt: one bos at its start where the model has one, and not a second
        one where the text (a chat template's, say) already begins with it."""
        ids = self.encode(text)
        return ids if self.bos_id is None or ids[:1] == [self.bos_id] else [self.bos_id, *ids]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of all ids, past any eos; an id that no token has (padding of a model's
        embedding) is left out."""
        ids = [int(i) for i in ids]
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def bytes_of(self, token: int) -> bytes:
        """What one token adds to a text that goes on with it; nothing for an id that none has. A
        character may be spread over several."""
        name = self._backend.id_to_token(int(token))
        if name is None:
            return b""
        if token in self.added_ids:
            return name.encode()
        if isinstance(self._backend.decoder, decoders.ByteLevel):
            return bytes(_BYTE_OF[char] for char in name if char in _BYTE_OF)
        if _RAW_BYTE.fullmatch(name):
            return bytes([int(name[3:5], 16)])
        # After another token, as only the first of all loses its blank.
        before = next((i for i in self._plain_ids if i != token), token)
        start, whole = self.decode([before]), self.decode([before, token])
        return whole.removeprefix(start).encode()

    @functools.cached_property
    def _plain_ids(self) -> list[int]:
        """A few tokens that are text by themselves."""
        found = (i for i in range(self.vocab_size) if i not in self.added_ids)
        plain = (i for i in found if self.decode([i]).isalnum())
        return list(itertools.islice(plain, 2))

    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text: they are left out where special tokens are skipped."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    def id_of(self, name: str) -> int | None:
        """The one token of this name, if there is one."""
        return self._backend.token_to_id(name)

    def to_json(self) -> str:
        """As a tokenizer.json has it."""
        return self._backend.to_str()

    def stream(self, skip_special_tokens: bool = False) -> "Decoder":
        """Decodes one reply an id at a time, as `decode` does the whole."""
        hidden = set()
        if skip_special_tokens:
            added = self._backend.get_added_tokens_decoder()
            hidden = {i for i, token in added.items() if token.special}
        if isinstance(self._backend.decoder, decoders.ByteLevel):
            return _ByteDecoder(self._backend, hidden)
        return _WindowDecoder(self._backend, hidden)


class Decoder(Protocol):
    """Ids in, text out, each piece only once nothing that follows can change it.

    All that `feed` and then `flush` return, joined, is `Tokenizer.decode` of all the ids, whatever
    they are. So U+FFFD is shown only for bytes that turned out to be no character. The cost of an
    id does not grow with the number of ids before it.
    """

    def feed(self, token: int) -> str: ...

    def flush(self) -> str:
        """The rest, at the end of the reply."""
        ...


class _ByteDecoder:
    """For byte-level vocabularies (GPT-2's kind: DeepSeek, Qwen, Llama 3): their tokens are bytes,
    one after the other, and a character may be spread over up to four of them."""

    def __init__(self, backend: tokenizers.Tokenizer, hidden: set[int]):
        self._backend, self._hidden = backend, hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        name = self._backend.id_to_token(int(token))
        if name is None or token in self._hidden:
            return ""
        try:
            piece = bytes(_BYTE_OF[char] for char in name)
        except KeyError:  # an added token, in plain text
            piece = name.encode()
        return self._utf8.decode(piece)

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowDecoder:
    """For every other vocabulary: SentencePiece's kind (Llama 2) and words.

    The text of a token depends on the one before it at most (the first of all loses its leading
    space), so each is decoded after the last one shown. Bytes are the exception: a run of
    `<0xE2>`-like tokens is text if the whole of it is valid UTF-8, else one U+FFFD a byte, so
    none of it can be shown before the run ends. (`tokenizers.decoders.DecodeStream` shows it
    early, and then raises or shows what `decode` does not, when bytes that are not valid follow.)
    """

    def __init__(self, backend: tokenizers.Tokenizer, hidden: set[int]):
        self._backend, self._hidden = backend, hidden
        self._window: list[int] = []  # the last token shown, then those held back
        self._shown = 0  # characters of the window's text

    def feed(self, token: int) -> str:
        name = self._backend.id_to_token(int(token))
        if name is None or token in self._hidden:
            return ""
        self._window.append(int(token))
        if _RAW_BYTE.fullmatch(name):
            return ""
        piece = self.flush()
        self._window = [int(token)]
        self._shown = len(self._text())
        return piece

    def flush(self) -> str:
        text = self._text()
        piece, self._shown = text[self._shown :], len(text)
        return piece

    def _text(self) -> str:
        return self._backend.decode(self._window, skip_special_tokens=False)


def _byte_alphabet() -> dict[str, int]:
    """How GPT-2 writes bytes as printable characters: those that print as themselves, the n-th of
    the others as chr(256 + n)."""
    plain = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    others = (byte for byte in range(256) if byte not in plain)
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_SURROGATE = re.compile("[\ud800-\udfff]")
_RAW_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def special_tokens(config: dict[str, Any], file: Path) -> dict[str, str]:
    """The tokens that a tokenizer_config.json names, by its names for them: "eos_token" -> ..."""
    names = {}
    for field in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(field)
        name = value.get("content") if isinstance(value, dict) else value
        check(name is None or isinstance(name, str), f"{file}: {field} must be a string or null")
        if name is not None:
            names[field] = name
    return names


def _begins_with(
    bos: str, backend: tokenizers.Tokenizer, config: dict[str, Any], file: Path
) -> bool:
    """Whether prompts begin with bos: as the config says, else if the post-processor adds it."""
    value = config.get("add_bos_token")
    if value is None:
        return backend.encode("").tokens[:1] == [bos]
    check(isinstance(value, bool), f"{file}: add_bos_token must be true or false, got {value!r}")
    return value


def _stop_ids(file: Path, backend: tokenizers.Tokenizer) -> list[int]:
    """The eos_token_id, one or several, of the model beside a tokenizer.json.

    Instruct models end a turn with a token that their tokenizer_config.json does not name
    (Llama 3.1: three of them). As in Transformers, generation_config.json goes before config.json.
    """
    for place in (file.with_name("generation_config.json"), file.with_name("config.json")):
        value = (read_object(place) or {}).get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        for i in ids:
            ok = type(i) is int and i >= 0
            check(ok, f"{place}: eos_token_id must be a token id or a list of them, got {value!r}")
            check(backend.id_to_token(i) is not None, f"{place}: eos_token_id {i} is not in {file}")
        return ids
    return []
