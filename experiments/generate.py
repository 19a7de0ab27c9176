"""Text from a model, as it streams.

    python -m experiments.generate --model=DIR --prompt="Once upon a time"
    python -m experiments.generate --model=DIR --chat                   # until the end of input
    python -m experiments.generate --model=DIR --prompts=FILE --json    # one object a prompt

DIR is a Hugging Face directory, or the folder of a run. Without a prompt the text starts from the
beginning-of-sequence token. FILE has a prompt a line; a .jsonl has {"prompt": text} or
{"messages": [{"role", "content"}, ...]}, which the model's chat template renders, as it does a
chat. Replies to several prompts are printed whole, in order. Thinking is dim on a terminal, and
elsewhere stands between <think> and </think>.

An object of --json is {"prompt", "thinking", "text", "tokens", "finish_reason"}: the text that the
model read, its reply, how many tokens it drew, and "stop" or "length". A reply that is cut while it
thinks has an empty text.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import jax

from experiments import cli
from r1jax import sharding
from r1jax.config import InputError, ModelConfig, SamplingConfig, check
from r1jax.data.chat import (
    ChatTemplate,
    Message,
    Split,
    ThinkingSplitter,
    check_messages,
    opens_thinking,
)
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
    prompts: str = ""  # a file of them
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
        check(self.max_tokens > 0, f"--max-tokens must be positive, got {self.max_tokens}")
        given = [f for f in ("prompt", "prompts", "chat") if getattr(self, f)]
        check(len(given) < 2, f"--{' and --'.join(given)} exclude each other")


class Reading:
    """One reply as it comes in: tokens to text, thinking apart from answer."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, ids: Sequence[int], max_tokens: int):
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._decoder = tokenizer.stream(skip_special_tokens=True)
        for token in ids:  # the first token of a text loses its blank; a reply goes on with one
            self._decoder.feed(token)
        self._decoder.flush()
        self._splitter = ThinkingSplitter(opens_thinking(prompt))
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
        self.cfg, self.source, self.tokenizer = cfg, source, source.tokenizer()
        self.model = source.config
        if cfg.dtype != "stored":
            self.model = dataclasses.replace(self.model, dtype=cfg.dtype, param_dtype=cfg.dtype)
        self.mesh = sharding.make_mesh(cfg.mesh)
        self.first_process = jax.process_index() == 0
        self._weights: Weights | None = None
        self.drawn, self.seconds = 0, 0.0  # tokens, once a set of prompts is compiled for

    def prompt_ids(self, prompt: str) -> list[int]:
        ids = self.tokenizer.encode_prompt(prompt)
        check(
            bool(ids),
            f"{self.source.path}: its texts have no beginning-of-sequence token to start from: "
            "give a prompt",
        )
        return ids

    def replies(self, prompts: Sequence[str], first: int = 0, live: Writer | None = None):
        """The readings of all replies, in order. `live` is told the first prompt's as it streams.
        first: the number of the first prompt, which its randomness comes from."""
        cfg, ids = self.cfg, [self.prompt_ids(prompt) for prompt in prompts]
        sampling = sizes(cfg, self.model, ids)
        readings = [
            Reading(self.tokenizer, prompt, tokens, sampling.max_tokens)
            for prompt, tokens in zip(prompts, ids, strict=True)
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
                self._show(prompts[printed], readings[printed], several=len(prompts) > 1)
                printed += 1

        requests = [Request(tokens, first + i, 0) for i, tokens in enumerate(ids)]
        engine = Engine(self.model, sampling, self.mesh, sorted(self.tokenizer.end_ids))
        engine.generate(self._weights, requests, jax.random.key(cfg.seed), on_tokens)
        self.seconds += time.perf_counter() - started
        self.drawn += sum(reading.tokens for reading in readings) - before
        if live:
            live.end()
        return readings

    def _show(self, prompt: str, reading: Reading, several: bool) -> None:
        if not self.first_process:
            return
        if self.cfg.json:
            print(json.dumps(row(prompt, reading), ensure_ascii=False), flush=True)
            return
        writer = Writer(sys.stdout)
        writer.write(Split(reading.thinking, reading.text))
        writer.end()
        if several:
            print(flush=True)


def row(prompt: str, reading: Reading) -> dict[str, Any]:
    """A line of --json."""
    return {
        "prompt": prompt,
        "thinking": reading.thinking.strip(),
        "text": reading.text,
        "tokens": reading.tokens,
        "finish_reason": reading.finish_reason,
    }


def sizes(cfg: GenerateConfig, model: ModelConfig, ids: Sequence[Sequence[int]]) -> SamplingConfig:
    """One compiled length for all prompts. Raises InputError for a prompt that leaves no room."""
    longest = max(map(len, ids))
    check(
        longest < model.context,
        f"a prompt has {longest:,} tokens, and the model's context is {model.context:,}: it is too "
        "long to be answered",
    )
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


def read_prompts(path: str, source: OnDisk) -> list[str]:
    """The prompts of a file, as the model reads them; blank lines are none. Raises InputError that
    names the line."""
    if not path.endswith((".jsonl", ".json")):
        try:
            lines = Path(path).read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise InputError(f"{path}: not UTF-8 text") from None
        prompts = [line for line in lines if line.strip()]
        check(bool(prompts), f"{path}: no prompts")
        return prompts

    def parse(row: dict[str, Any], _: Place) -> str:
        if "messages" in row:
            check_messages(row["messages"])
            return ChatTemplate.load(source.files).render(row["messages"])
        return field(row, "prompt", str)

    return read_rows(path, parse)


def chat(generator: Generator) -> None:
    """Line by line: the user's from standard input, the model's to standard output."""
    template = ChatTemplate.load(generator.source.files)
    messages: list[Message] = []
    for turn, line in enumerate(_lines()):
        messages.append({"role": "user", "content": line})
        prompt = template.render(messages)
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


def main(args: list[str]) -> None:
    cfg = cli.parse(GenerateConfig, GenerateConfig(), args, __doc__ or "")
    check(bool(cfg.model), "--model=DIR is needed")
    source = open_model(cfg.model)
    if cfg.chat:
        ChatTemplate.load(source.files)  # or the model has none, before anything is read
    prompts = read_prompts(cfg.prompts, source) if cfg.prompts else [cfg.prompt]
    generator = Generator(cfg, source)
    if cfg.chat:
        chat(generator)
    else:
        one = not cfg.json and not cfg.prompts and generator.first_process
        generator.replies(prompts, live=Writer(sys.stdout) if one else None)
    if generator.drawn and generator.first_process:
        rate = generator.drawn / generator.seconds
        print(f"{rate:,.1f} tokens/s ({generator.drawn:,} tokens)", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
