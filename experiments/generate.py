"""Text from a model, as it streams.

    python -m experiments.generate --model=DIR --prompt="Once upon a time"
    echo "Once upon a time" | python -m experiments.generate --model=DIR
    python -m experiments.generate --model=DIR --chat                   # until the end of input
    python -m experiments.generate --model=DIR --prompts=FILE --json    # one object a reply
    python -m experiments.generate --model=DIR --data=gsm8k=test.jsonl --n=4 --json > replies.jsonl
    python -m experiments.grade --data=gsm8k=test.jsonl --completions=replies.jsonl

DIR is a Hugging Face directory, or the folder of a run. --conversation says how the model is asked:
by its chat template if it has one; else a text goes on, and a problem is asked by R1-Zero's prompt.
Without a prompt the text starts from the beginning-of-sequence token.

FILE has a prompt a line, - is standard input; a .jsonl has {"prompt": text} or {"messages":
[{"role", "content"}, ...]}, and an optional "id". --data names problems as experiments.r1_zero
does. What is piped in is read as --prompts=- where no prompt is given. A blank line is not asked,
and has an empty reply in its place. Replies to several prompts are printed whole, in order, --n to
a prompt one after the other. Thinking is dim on a terminal, and elsewhere stands between <think>
and </think>.

An object of --json is {"id", "sample", "prompt", "completion", "thinking", "text", "tokens",
"finish_reason", "conversation"}: the id of the problem or row (else its line), which of its
replies, the text that the model read, the reply whole, as RL's graders read it, and in its two
parts, how many tokens it drew, and "stop", "length", or "not asked" (a blank line, or a prompt that
--long-prompts=drop leaves out); last, how it was asked: plain, r1_zero, chat or embedded. A reply
that is cut while it thinks has an empty text. experiments.grade reads these.
"""

import dataclasses
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any, Literal

import jax

from experiments import cli
from r1jax import sharding
from r1jax.checks import InputError, check, check_drawing, check_seed
from r1jax.config import (
    MOST_REPLIES,
    ConversationName,
    DraftsName,
    Long,
    SamplingConfig,
    TaskName,
)
from r1jax.data.asked import Asked, read_lines, read_prompts, read_questions
from r1jax.data.chat import Message, Split
from r1jax.data.conversation import Conversation
from r1jax.data.reading import Reading
from r1jax.model.params import Weights
from r1jax.models import Computed, Kept, OnDisk, drawn_as, open_model
from r1jax.sampling.engine import Engine, EngineStats, Request
from r1jax.sampling.requests import drafts_line
from r1jax.sampling.sizes import sized

EVERY = 10.0  # seconds between two lines of progress
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    model: str = ""
    prompt: str = ""
    prompts: str = ""  # a file of them; -: standard input
    data: str = ""  # problems: [TASK=]FILE,...
    task: TaskName = "problems"  # of files that do not say another
    chat: bool = False
    conversation: ConversationName = "auto"  # how the model is asked
    json: bool = False
    n: int = 1  # replies to a prompt
    temperature: float = 0.6  # 0: greedy
    top_p: float = 0.95
    top_k: int = 0  # 0: off
    max_tokens: int = 1024  # of a reply; fewer where the model's context ends before
    long_prompts: Long = "stop"  # what a prompt does that leaves no room for a reply
    bad_rows: Literal["stop", "skip"] = "stop"  # what a malformed row of --data does
    seed: int = 0
    drafts: DraftsName = "none"  # guesses that draw several tokens a step, and the same replies
    draft_tokens: int = SamplingConfig.draft_tokens  # guessed a step
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8
    dtype: Computed = "stored"
    weights: Kept = "stored"  # int8, int4: matrices rounded to so many bits as they are read

    def __post_init__(self):
        check_drawing(self.temperature, self.top_p, self.top_k)
        check(self.max_tokens > 0, f"--max-tokens must be positive, got {self.max_tokens}")
        most = f"--n must lie between 1 and {MOST_REPLIES:,}, got {self.n}"
        check(0 < self.n <= MOST_REPLIES, most)
        check_seed(self.seed, "--seed")
        given = [f for f in ("prompt", "prompts", "data", "chat") if getattr(self, f)]
        check(len(given) < 2, f"--{' and --'.join(given)} exclude each other")
        check(not self.chat or self.n == 1, "--chat goes on from one reply: leave out --n")


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


class Progress:
    """A line on standard error every so often, while nothing else tells that work goes on."""

    def __init__(self, replies: int):
        self._replies, self._shown = replies, time.perf_counter()

    def update(self, done: int, tokens: int, seconds: float) -> None:
        now = time.perf_counter()
        if now - self._shown < EVERY or done == self._replies:
            return
        self._shown = now
        rate = f", {tokens / seconds:,.1f} tokens/s" if seconds else ""
        print(f"{done:,} of {self._replies:,} replies{rate}", file=sys.stderr, flush=True)


class Generator:
    """A model and its conversation, ready to reply."""

    def __init__(self, cfg: GenerateConfig, source: OnDisk, conversation: Conversation):
        self.cfg, self.source, self.conversation = cfg, source, conversation
        self.tokenizer = conversation.tokenizer
        self.model = drawn_as(source.config, cfg.dtype, cfg.weights)
        self.mesh = sharding.make_mesh(cfg.mesh)
        self.first_process = jax.process_index() == 0
        self._weights: Weights | None = None
        self.drawn, self.seconds = 0, 0.0  # tokens, once a set of prompts is compiled for
        self.used = EngineStats()

    def encoded(self, asked: Sequence[Asked]) -> list[list[int]]:
        """Token ids of each prompt; none of one that is not asked. Raises InputError that names
        the place of a prompt that cannot be answered."""
        found = [self.tokenizer.encode_prompt(a.prompt) if a.told else [] for a in asked]
        for a, ids in zip(asked, found, strict=True):
            check(
                bool(ids) or not a.told,
                f"{self.source.path}: its texts have no beginning-of-sequence token to start "
                "from: give a prompt",
            )
        context = self.model.context
        long = [i for i, ids in enumerate(found) if len(ids) >= context]
        if long:
            worst = max(long, key=lambda i: len(found[i]))
            said = (
                f"{len(long):,} of {len(asked):,} prompts leave no room in the model's context of "
                f"{context:,} tokens; the longest, {asked[worst].where}, has {len(found[worst]):,}"
            )
            drop = self.cfg.long_prompts == "drop"
            check(drop, f"{said}: too long to be answered; --long-prompts=drop leaves such out")
            self.say(f"{said}: not asked")
            found = [[] if i in long else ids for i, ids in enumerate(found)]
        return found

    def replies(self, asked: Sequence[Asked], first: int = 0, live: Writer | None = None):
        """The readings of all replies, in order. `live` is told the only one as it streams.
        first: the number of the first prompt, which its randomness comes from."""
        cfg, n = self.cfg, self.cfg.n
        count = n * len(asked)
        check(
            count <= MOST_REPLIES,
            f"--n={n}: {count:,} replies to {len(asked):,} prompts; at most {MOST_REPLIES:,}",
        )
        ids = self.encoded(asked)
        wanted = [(i, k) for i in range(len(asked)) for k in range(n)]
        drawn = [j for j, (i, _) in enumerate(wanted) if ids[i]]
        if not drawn:
            raise InputError("there is nothing to be asked")
        longest = max(map(len, ids))
        sampling = sized(
            SamplingConfig(
                cfg.temperature,
                cfg.top_k,
                cfg.top_p,
                max_tokens=cfg.max_tokens,
                drafts=cfg.drafts,
                draft_tokens=cfg.draft_tokens,
            ),
            longest,
            len(drawn),
            self.model.context,
        )
        if sampling.max_tokens < cfg.max_tokens:
            self.say(
                f"replies end after {sampling.max_tokens:,} tokens: the longest prompt leaves no "
                f"more of the model's context of {self.model.context:,}"
            )
        readings = [
            Reading(self.conversation, asked[i].prompt, ids[i], sampling.max_tokens)
            for i, _ in wanted
        ]
        if self._weights is None:
            self._weights = self.source.weights(self.model, self.mesh)
        printed, started, before = 0, 0.0, 0
        progress, done, tokens_drawn = Progress(len(drawn)), 0, 0

        def show() -> None:
            nonlocal printed
            while printed < len(wanted) and readings[printed].finish_reason:
                i, k = wanted[printed]
                self._show(asked[i], k, readings[printed], several=len(wanted) > 1)
                printed += 1

        def on_tokens(j: int, tokens: list[int]) -> None:
            nonlocal started, before, done, tokens_drawn
            reading = readings[drawn[j]]
            new = reading.feed(tokens)
            tokens_drawn += len(tokens)
            if not started:  # what came before was compiling
                started, before = time.perf_counter(), len(tokens)
            if live:
                live.write(new)
                return
            done += bool(reading.finish_reason)
            show()
            if self.first_process and not sys.stdout.isatty():
                progress.update(done, tokens_drawn - before, time.perf_counter() - started)

        for j in set(range(len(wanted))) - set(drawn):
            readings[j].finish_reason = "not asked"
        requests = [Request(ids[i], first + i, k) for i, k in wanted if ids[i]]
        engine = Engine(self.model, sampling, self.mesh, sorted(self.tokenizer.end_ids))
        _, used = engine.generate(self._weights, requests, jax.random.key(cfg.seed), on_tokens)
        self.used += used
        self.seconds += time.perf_counter() - started
        self.drawn += tokens_drawn - before
        if live:
            live.end()
        return readings

    def say(self, line: str) -> None:
        if self.first_process:
            print(line, file=sys.stderr, flush=True)

    def _show(self, asked: Asked, sample: int, reading: Reading, several: bool) -> None:
        if not self.first_process:
            return
        if self.cfg.json:
            line = row(asked, sample, reading) | {"conversation": self.conversation.form}
            print(json.dumps(line, ensure_ascii=False), flush=True)
            return
        writer = Writer(sys.stdout)
        writer.write(Split(reading.thinking, reading.text))
        writer.end()
        if several:
            print(flush=True)


def row(asked: Asked, sample: int, reading: Reading) -> dict[str, Any]:
    """A line of --json."""
    return {
        "id": asked.id,
        "sample": sample,
        "prompt": asked.prompt,
        "completion": reading.completion,
        "thinking": reading.thinking.strip(),
        "text": reading.text,
        "tokens": reading.tokens,
        "finish_reason": reading.finish_reason,
    }


def chat(generator: Generator) -> None:
    """Line by line: the user's from standard input, the model's to standard output."""
    conversation = generator.conversation
    messages: list[Message] = []
    told = False
    for turn, line in enumerate(_lines()):
        messages.append({"role": "user", "content": line})
        try:
            prompt = conversation.prompt(messages)
        except InputError:  # without a place for what was said before
            messages = messages[-1:]
            prompt = conversation.prompt(line if conversation.form == "embedded" else messages)
            if not told and turn > 0:
                told = True
                generator.say("the model takes one question at a time: each is asked alone")
        asked = Asked(prompt, f"turn {turn + 1}", str(turn + 1))
        live = None if generator.cfg.json or not generator.first_process else Writer(sys.stdout)
        reading = generator.replies([asked], turn, live)[0]
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


def asked_for(cfg: GenerateConfig, conversation: Conversation) -> list[Asked]:
    """All that cfg asks. Raises InputError that names the place at fault."""
    if cfg.data:
        return read_questions(cfg.data, cfg.task, cfg.bad_rows, conversation)
    if cfg.prompts and cfg.prompts != "-":
        return read_prompts(cfg.prompts, conversation)
    if cfg.prompts or (not cfg.prompt and _is_piped(sys.stdin)):
        text = sys.stdin.read()
        if text or cfg.prompts:
            return read_lines(text, "standard input", conversation)
    # Without a prompt there is nothing to ask: the model begins a text.
    return [Asked(conversation.prompt(cfg.prompt) if cfg.prompt else "", "the prompt", "1")]


def main(args: list[str]) -> None:
    cfg = cli.parse(GenerateConfig, GenerateConfig(), args, __doc__ or "")
    check(bool(cfg.model), "--model=DIR is needed")
    source = open_model(cfg.model)
    # The embedded model has its own way to be asked, and no template.
    chats = cfg.chat and cfg.conversation == "auto" and source.files
    wanted: ConversationName = "chat" if chats else cfg.conversation
    conversation = source.conversation(wanted, "r1_zero" if cfg.data else "plain")
    asked = [] if cfg.chat else asked_for(cfg, conversation)
    generator = Generator(cfg, source, conversation)
    if cfg.chat:
        chat(generator)
    else:
        one = not cfg.json and len(asked) == cfg.n == 1
        live = Writer(sys.stdout) if one and generator.first_process else None
        generator.replies(asked, live=live)
    if generator.drawn and generator.first_process:
        rate = generator.drawn / generator.seconds
        print(
            f"{rate:,.1f} tokens/s: {generator.drawn:,} tokens drawn in {generator.seconds:,.1f} s,"
            " once the first were (which compiles)",
            file=sys.stderr,
        )
    if generator.used.drafts and generator.first_process:
        print(f"drafts: {drafts_line(generator.used)}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
