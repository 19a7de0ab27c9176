"""Benchmarks by R1's protocol, with errors, beside the published figures.

    python -m experiments.evaluate                                      # the shipped model
    python -m experiments.evaluate --model=DIR --data=DATA --benchmarks=aime24,math500,gpqa
    python -m experiments.evaluate --model=runs/r1_zero --k=16          # a run's newest weights
    python -m experiments.evaluate --model=http://HOST:8000/v1 --data=DATA --benchmarks=gsm8k
    python -m experiments.evaluate --model=DIR --benchmarks=gsm8k=test.jsonl,mine=problems.jsonl

R1's protocol is the default: temperature 0.6, top-p 0.95, as many replies to a question as the
paper drew, at most 32,768 tokens, a thought forced, no system prompt; --protocol=r1_0528 is that of
R1-0528, and every part is a flag. --data is a folder of benchmarks as they are published, NAME or
NAME.jsonl (.json, .csv, .parquet, .gz) each; without --benchmarks all that it holds. Of the
user's own: NAME=FILE with lines {"id", "kind", "prompt", "answer" or "tests"}; --reward=FILE.py:
FUNCTION judges the kind "own". A model is a Hugging Face directory or id, the folder of a run,
"embedded", or the URL of an OpenAI-compatible server, whose replies have the same graders.

Every reply is kept in OUT/replies.jsonl as soon as it ends: the same command goes on where it was
stopped. OUT/results.json has all figures (docs/evaluation.md).
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import cli
from r1jax import sharding
from r1jax.checks import check
from r1jax.config import ConversationName, DraftsName, Long, RewardConfig, SamplingConfig
from r1jax.data.conversation import Form
from r1jax.data.tasks import read_files
from r1jax.evaluation.evaluate import REPLIES, Evaluation
from r1jax.evaluation.local import Local, Replier
from r1jax.evaluation.protocol import PROTOCOLS, Protocol, ProtocolName
from r1jax.evaluation.questions import Choice, Shuffle, load, named
from r1jax.evaluation.remote import Api, Remote
from r1jax.evaluation.table import lines
from r1jax.models import OnDisk, open_model
from r1jax.rewards.components import in_chat
from r1jax.rewards.grading import Grader
from r1jax.rewards.own import components_of
from r1jax.rewards.sandbox import Limits


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    model: str = "embedded"
    benchmarks: str = ""  # NAME[=FILE],...; all of --data, or the embedded countdown
    data: str = ""  # a folder of benchmarks
    out: str = "runs/evaluate"
    protocol: ProtocolName = "r1"
    k: int | None = None  # replies to a question; None, here and below: the protocol's
    temperature: float | None = None  # 0: greedy
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    think: bool | None = None  # whether a reply is made to begin with <think>
    system: str | None = None  # a system prompt
    directives: bool | None = None  # whether a chat model is told how to give its answer
    seed: int = 0
    limit: int = 0  # evenly spaced questions of each benchmark; 0: all
    since: str = ""  # the first day of dated questions, as 2024-08-01
    until: str = ""  # and the last
    shuffle: Shuffle = "published"  # options in an order by the seed: GPQA's, all, none
    tier: int = 4  # numbers of an embedded countdown problem
    bad_rows: Literal["stop", "skip"] = "stop"  # what a malformed row does
    unasked: Long = "stop"  # what a question does that is too long, or of words it does not know
    training: str = ""  # [TASK=]FILE,...: training data that questions are looked for in
    conversation: ConversationName = "auto"  # how the model is asked
    reward: str = ""  # FILE.py:FUNCTION, which judges problems of the kind "own"
    language: str = "en"  # that a thought should be in
    workers: int = 2  # processes that grade
    timeout: float = 5.0  # seconds that the check of a formula may take
    limits: Limits = dataclasses.field(default_factory=Limits)  # of a program
    i_know_that_model_code_runs_unsandboxed: bool = False
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    slots: int = 0  # replies decoded side by side; 0: 64
    drafts: DraftsName = "none"  # guesses that draw several tokens a step, and the same replies
    draft_tokens: int = SamplingConfig.draft_tokens  # guessed a step
    api: Api = "chat"  # of a server
    served_model: str = ""  # as the server calls it; empty: the first that it names
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the server's key
    concurrency: int = 16  # requests side by side
    retries: int = 6  # of a request that fails
    request_timeout: float = 3600.0  # seconds, of one try

    def __post_init__(self):
        self.asks()
        check(self.k is None or self.k > 0, f"--k must be positive, got {self.k}")
        check(self.limit >= 0, f"--limit must not be negative, got {self.limit}")
        check(3 <= self.tier <= 6, f"--tier must lie between 3 and 6, got {self.tier}")
        check(self.workers > 0, f"--workers must be positive, got {self.workers}")
        check(self.slots >= 0, f"--slots must not be negative, got {self.slots}")

    def asks(self) -> Protocol:
        named = ("k", "temperature", "top_p", "top_k", "max_tokens", "think", "system",
                 "directives")  # fmt: skip
        changes: dict[str, Any] = {n: getattr(self, n) for n in named}
        changes = {n: value for n, value in changes.items() if value is not None}
        return dataclasses.replace(PROTOCOLS[self.protocol](), seed=self.seed, **changes)

    @property
    def is_url(self) -> bool:
        return self.model.startswith(("http://", "https://"))


def replier_of(cfg: EvaluateConfig, say) -> tuple[Replier, dict[str, Any]]:
    """What replies, and which weights these are."""
    if not cfg.is_url:
        source = open_model(cfg.model)
        mesh = sharding.make_mesh(cfg.mesh)
        local = Local(
            source,
            cfg.asks(),
            mesh,
            cfg.conversation,
            cfg.dtype,
            cfg.slots,
            say,
            cfg.drafts,
            cfg.draft_tokens,
        )
        return local, {"weights": weights_of(source), "dtype": cfg.dtype}
    check(jax.process_count() == 1, "--model=URL: one process asks a server")
    check(
        cfg.api == "chat" or cfg.conversation in ("auto", "r1_zero", "plain"),
        f"--conversation={cfg.conversation}: the server knows its model's template: --api=chat",
    )
    form: Form = "plain" if cfg.conversation == "plain" else "r1_zero"
    return (
        Remote(
            cfg.model,
            cfg.asks(),
            cfg.served_model,
            cfg.api,
            form,
            os.environ.get(cfg.api_key_env, ""),
            cfg.concurrency,
            cfg.retries,
            cfg.request_timeout,
        ),
        {"weights": ""},
    )


def weights_of(source: OnDisk) -> str:
    """Tells one state of a folder from another: a run that was trained on is another model."""
    if not source.path.is_dir():
        return source.base
    steps = [p.name for p in (source.path / "checkpoints").glob("*") if p.name.isdigit()]
    if steps:
        return f"step {max(map(int, steps))}"
    files = sorted(source.path.glob("*.safetensors"))
    return ", ".join(f"{f.name} {f.stat().st_size}" for f in files)


def grader_of(cfg: EvaluateConfig, form: str) -> Grader:
    rewards = RewardConfig(format=0.0, own=cfg.reward, target_language=cfg.language)
    components = components_of(rewards)
    return Grader(
        rewards.weights,
        cfg.workers,
        cfg.timeout,
        in_chat(components) if form == "chat" else components,
        cfg.limits,
        cfg.i_know_that_model_code_runs_unsandboxed,
    )


@contextlib.contextmanager
def _said_at_stop(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = sum(1 for _ in (out / REPLIES).open("rb")) if (out / REPLIES).exists() else 0
        say(f"{kept:,} replies are kept in {out / REPLIES}; the same command goes on")
        raise


def main(args: list[str]) -> None:
    cfg = cli.parse(EvaluateConfig, EvaluateConfig(), args, __doc__ or "")
    first = jax.process_index() == 0

    def say(line: str) -> None:
        if first:
            print(line, flush=True)

    how = Choice(cfg.since, cfg.until, cfg.limit, cfg.shuffle, cfg.seed, cfg.bad_rows, cfg.tier)
    benchmarks = [load(*one, how) for one in named(cfg.benchmarks, cfg.data)]
    training = (
        read_files(cfg.training, "problems", cfg.bad_rows, "--training") if cfg.training else None
    )
    replier, identity = replier_of(cfg, say)
    identity |= {"shuffle": cfg.shuffle, "tier": cfg.tier}
    with grader_of(cfg, replier.form) as grader, _said_at_stop(Path(cfg.out), say):
        found = Evaluation(
            replier,
            benchmarks,
            cfg.asks(),
            grader,
            Path(cfg.out),
            cfg.unasked == "drop",
            training,
            identity,
            say,
        ).run()
    for line in lines(found):
        say(line)
    say(f"written to {Path(cfg.out) / 'results.json'}")


if __name__ == "__main__":
    cli.run(main)
