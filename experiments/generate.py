"""Text from a model, as it streams.

    python -m experiments.generate --model=DIR --prompt="Once upon a time"
    python -m experiments.generate --model=DIR --chat                   # until the end of input
    python -m experiments.generate --model=DIR --prompts=FILE --json    # one object a reply
    echo "Once upon a time" | python -m experiments.generate --model=DIR

DIR is a Hugging Face directory, an id on its Hub (org/name or org/name@revision), or the folder of
a run. Without a prompt the text starts from the
beginning-of-sequence token. FILE (- for standard input, which is also read where no prompt is
given and something is piped) has a prompt a line, a blank one too; a .jsonl has {"prompt": text} or
{"messages": [{"role", "content"}, ...]}, which the model's chat template renders, as it does a
chat, and may have an "id". --n draws several replies to each. Those to several prompts are printed
whole, in order. Thinking is dim on a terminal, and elsewhere stands between <think> and </think>.

An object of --json is {"id", "sample", "prompt", "completion", "thinking", "text", "tokens",
"finish_reason"}: the row's id (else its line), which of its replies, the text that the model read,
the whole reply and its two parts, how many tokens it drew, and "stop" or "length". A reply that is
cut while it thinks has an empty text. experiments.grade reads such objects.
"""

import dataclasses
import functools
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import jax

from experiments import cli
from r1jax import sharding
from r1jax.config import InputError, ModelConfig, SamplingConfig, check
from r1jax.data.chat import OPEN, Message, Split, ThinkingSplitter, opens_thinking
from r1jax.data.rows import Place, field, read_rows
from r1jax.data.tokenizer import Tokenizer
from r1jax.model.params import Weights
from r1jax.models import OnDisk, open_model
from r1jax.sampling.engine import Engine, Request

SLOTS, REFILL = 64, 16  # replies decoded side by side, where there are more prompts than that
ROUND = 32  # prompts are padded to a multiple, so that a chat compiles for few lengths
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    model: str = ""
    prompt: str = ""
    prompts: str = ""  # a file of them; -: standard input
    n: int = 1  # replies to each prompt
    chat: bool = False
    json: bool = False
    temperature: float = 0.6  # 0: greedy
    top_p: float = 0.95
    top_k: int = 0  # 0: off
    max_tokens: int = 1024  # of a reply; fewer where the model's context ends before
    seed: int = 0
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"

    def __post_init__(self):
        check(self.n > 0, f"--n must be positive, got {self.n}")
        check(self.seed >= 0, f"--seed must not be negative, got {self.seed}")
        check(self.max_tokens > 0, f"--max-tokens must be positive, got {self.max_tokens}")
        given = [f for f in ("prompt", "prompts", "chat") if getattr(self, f)]
        check(len(given) < 2, f"--{' and --'.join(given)} exclude each other")


class Prompt(NamedTuple):
    """What the model reads, what it is called, and where it stands, for errors."""

    text: str
    id: str
    where: str = "the prompt"


class Reading:
    """One reply as it comes in: tokens to text, thinking apart from answer."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, ids: Sequence[int], max_tokens: int):
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._decoder = tokenizer.stream(skip_special_tokens=True)
        for token in ids:  # the first token of a text loses its blank; a reply goes on with one
            self._decoder.feed(token)
        self._decoder.flush()
        self._splitter = ThinkingSplitter(opens_thinking(prompt))
        self.whole = prompt[prompt.rindex(OPEN) :] if opens_thinking(prompt) else ""
        self.thinking = self.text = self.finish_reason = ""
        self.tokens = 0

    def feed(self, tokens: Sequence[int]) -> Split:
        """What is new, of thinking and of answer."""
        self.tokens += len(tokens)
        stopped = bool(tokens) and tokens[-1] in self._tokenizer.end_ids
        piece = "".join(self._decoder.feed(t) for t in tokens[: len(tokens) - stopped])
        if stopped or self.tokens == self._max_tokens:
            self.finish_reason = "stop" if stopped else "length"
            piece += self._decoder.flush()
        self.whole += piece
        thinking, text = self._splitter.feed(piece)
        if self.finish_reason:
            rest = self._splitter.flush()
            thinking, text = thinking + rest.thinking, text + rest.answer
        self.thinking += thinking
        if self.thinking and not self.text:  # the blank lines between the two
            text = text.lstrip()
        self.text += text
        return Split(thinking, text)


class Writer:
    """Replies on standard output, thinking set apart."""

    def __init__(self, out: IO[str]):
        terminal = out.isatty()
        self._out, self._marks = out, (DIM, PLAIN + "\n") if terminal else ("<think>", "</think>\n")
        self._thinking = False

    def write(self, new: Split) -> None:
        if new.thinking and not self._thinking:
            self._begin_or_end()
        self._out.write(new.thinking)
        if new.answer and self._thinking:
            self._begin_or_end()
        self._out.write(new.answer)
        self._out.flush()

    def end(self) -> None:
        if self._thinking:
            self._begin_or_end()
        else:
            self._out.write("\n")
        self._out.flush()

    def _begin_or_end(self) -> None:
        self._out.write(self._marks[self._thinking])
        self._thinking = not self._thinking


class Generator:
    """A model and its tokenizer, ready to reply."""

    def __init__(self, cfg: GenerateConfig, source: OnDisk):
        self.cfg, self.source, self.tokenizer = cfg, source, source.conversation().tokenizer
        self.model = source.config
        if cfg.dtype != "stored":
            self.model = dataclasses.replace(self.model, dtype=cfg.dtype, param_dtype=cfg.dtype)
        self.mesh = sharding.make_mesh(cfg.mesh)
        self.first_process = jax.process_index() == 0
        self._weights: Weights | None = None
        self.drawn, self.seconds = 0, 0.0  # tokens, once a set of prompts is compiled for

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        ids = self.tokenizer.encode_prompt(prompt.text)
        check(
            bool(ids),
            f"{self.source.path}: its texts have no beginning-of-sequence token to start from: "
            "give a prompt",
        )
        check(
            len(ids) < self.model.context,
            f"{prompt.where}: a prompt has {len(ids):,} tokens, and the model's context is "
            f"{self.model.context:,}: it is too long to be answered",
        )
        return ids

    def replies(self, prompts: Sequence[Prompt], first: int = 0, live: Writer | None = None):
        """The readings of cfg.n replies to each prompt, in order. `live` is told the first
        prompt's as it streams. first: the number of the first prompt, which its randomness comes
        from."""
        cfg = self.cfg
        wanted = [(prompt, i) for prompt in prompts for i in range(cfg.n)]
        each = [self.prompt_ids(prompt) for prompt in prompts]
        ids = [tokens for tokens in each for _ in range(cfg.n)]
        sampling = sizes(cfg, self.model, ids)
        readings = [
            Reading(self.tokenizer, prompt.text, tokens, sampling.max_tokens)
            for (prompt, _), tokens in zip(wanted, ids, strict=True)
        ]
        if self._weights is None:
            self._weights = self.source.weights(self.model, self.mesh)
        printed, started, before = 0, 0.0, 0

        def on_tokens(i: int, tokens: list[int]) -> None:
            nonlocal printed, started, before
            new = readings[i].feed(tokens)
            if not started:  # what came before was compiling
                started, before = time.perf_counter(), len(tokens)
            if live:
                live.write(new)
                return
            while printed < len(readings) and readings[printed].finish_reason:
                self._show(*wanted[printed], readings[printed], several=len(wanted) > 1)
                printed += 1
                self._count(printed, len(wanted))

        requests = [Request(tokens, first + i // cfg.n, i % cfg.n) for i, tokens in enumerate(ids)]
        engine = Engine(self.model, sampling, self.mesh, sorted(self.tokenizer.end_ids))
        engine.generate(self._weights, requests, jax.random.key(cfg.seed), on_tokens)
        self.seconds += time.perf_counter() - started
        self.drawn += sum(reading.tokens for reading in readings) - before
        if live:
            live.end()
        return readings

    def _count(self, done: int, of: int) -> None:
        """How far it is, over itself, where someone watches and the replies go elsewhere."""
        watched = sys.stderr.isatty() and not sys.stdout.isatty() and self.first_process
        if watched and of > 1:
            print(f"\r{done:,} of {of:,} replies", end="\n" if done == of else "", file=sys.stderr)

    def _show(self, prompt: Prompt, sample: int, reading: Reading, several: bool) -> None:
        if not self.first_process:
            return
        if self.cfg.json:
            print(json.dumps(row(prompt, sample, reading), ensure_ascii=False), flush=True)
            return
        writer = Writer(sys.stdout)
        writer.write(Split(reading.thinking, reading.text))
        writer.end()
        if several:
            print(flush=True)


def row(prompt: Prompt, sample: int, reading: Reading) -> dict[str, Any]:
    """A line of --json."""
    return {
        "id": prompt.id,
        "sample": sample,
        "prompt": prompt.text,
        "completion": reading.whole,
        "thinking": reading.thinking.strip(),
        "text": reading.text,
        "tokens": reading.tokens,
        "finish_reason": reading.finish_reason,
    }


def sizes(cfg: GenerateConfig, model: ModelConfig, ids: Sequence[Sequence[int]]) -> SamplingConfig:
    """One compiled length for all prompts, each of which leaves room."""
    longest = max(map(len, ids))
    max_tokens = min(cfg.max_tokens, model.context - longest)
    few = len(ids) <= SLOTS
    return SamplingConfig(
        temperature=cfg.temperature,
        top_k=cfg.top_k,
        top_p=cfg.top_p,
        max_prompt=min(-(-longest // ROUND) * ROUND, model.context - max_tokens),
        max_tokens=max_tokens,
        slots=len(ids) if few else SLOTS,
        refill=len(ids) if few else REFILL,
    )


def read_prompts(path: str, source: OnDisk) -> list[Prompt]:
    """The prompts of a file, as the model reads them. Raises InputError that names the line."""
    if not path.endswith((".jsonl", ".json")):
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{path}: not UTF-8 text") from None
        lines = text.splitlines() or [""]
        check(bool(text.strip()) or path == "-", f"{path}: no prompts")
        return [Prompt(line, str(n), f"{path}:{n}") for n, line in enumerate(lines, start=1)]
    opened = functools.cache(lambda: source.conversation("chat"))

    def parse(row: dict[str, Any], at: Place) -> Prompt:
        name = str(row.get("id", at.number))
        if "messages" in row:
            return Prompt(opened().prompt(row["messages"]), name, str(at))
        return Prompt(field(row, "prompt", str), name, str(at))

    return read_rows(path, parse)


def chat(generator: Generator) -> None:
    """Line by line: the user's from standard input, the model's to standard output."""
    conversation = generator.source.conversation("chat")
    messages: list[Message] = []
    for turn, line in enumerate(_lines()):
        messages.append({"role": "user", "content": line})
        prompt = Prompt(conversation.prompt(messages), str(turn))
        live = None if generator.cfg.json or not generator.first_process else Writer(sys.stdout)
        reading = generator.replies([prompt], turn, live)[0]
        messages.append({"role": "assistant", "content": reading.text})


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line


def _is_piped(file: IO[str]) -> bool:
    """Whether a pipe or a file feeds it: not a terminal, nor nothing."""
    try:
        mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def main(args: list[str]) -> None:
    cfg = cli.parse(GenerateConfig, GenerateConfig(), args, __doc__ or "")
    check(bool(cfg.model), "--model=DIR is needed")
    source = open_model(cfg.model)
    if cfg.chat:
        source.conversation("chat")  # or the model has none, before anything is read
    piped = not cfg.prompt and not cfg.chat and not cfg.prompts and _is_piped(sys.stdin)
    file = "-" if piped else cfg.prompts
    prompts = read_prompts(file, source) if file else [Prompt(cfg.prompt, "1")]
    generator = Generator(cfg, source)
    if cfg.chat:
        chat(generator)
    else:
        one = not cfg.json and len(prompts) * cfg.n == 1 and generator.first_process
        generator.replies(prompts, live=Writer(sys.stdout) if one else None)
    if generator.drawn and generator.first_process:
        rate = generator.drawn / generator.seconds
        print(f"{rate:,.1f} tokens/s ({generator.drawn:,} tokens)", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
