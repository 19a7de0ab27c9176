"""What the commands that ask a model share: which model, how it replies, who grades."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax

from r1jax import sharding
from r1jax.checks import check
from r1jax.config import ConversationName, DraftsName, Long, RewardConfig, SamplingConfig
from r1jax.data.conversation import Form
from r1jax.evaluation.local import Local, Replier
from r1jax.evaluation.protocol import Protocol
from r1jax.evaluation.remote import Api, Remote
from r1jax.evaluation.work import REPLIES
from r1jax.models import Computed, Kept, drawn_as, open_model
from r1jax.rewards.components import in_chat
from r1jax.rewards.grading import Grader
from r1jax.rewards.own import components_of
from r1jax.rewards.sandbox import Limits


@dataclasses.dataclass(frozen=True)
class Asking:
    """model: a Hugging Face directory or id, the folder of a run, "embedded", or the URL of an
    OpenAI-compatible server."""

    model: str = "embedded"
    conversation: ConversationName = "auto"  # how the model is asked
    seed: int = 0
    bad_rows: Literal["stop", "skip"] = "stop"  # what a malformed row does
    unasked: Long = "stop"  # what a question does that is too long, or of words it does not know
    reward: str = ""  # FILE.py:FUNCTION, which judges problems of the kind "own"
    workers: int = 2  # processes that grade
    timeout: float = 5.0  # seconds that the check of a formula may take
    limits: Limits = dataclasses.field(default_factory=Limits)  # of a program
    i_know_that_model_code_runs_unsandboxed: bool = False
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8
    dtype: Computed = "stored"
    weights: Kept = "stored"  # int8, int4: matrices rounded to so many bits as they are read
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
        check(self.workers > 0, f"--workers must be positive, got {self.workers}")
        check(self.slots >= 0, f"--slots must not be negative, got {self.slots}")

    @property
    def is_url(self) -> bool:
        return self.model.startswith(("http://", "https://"))


def replier_of(cfg: Asking, protocol: Protocol, say) -> tuple[Replier, dict[str, Any]]:
    """What replies, and which weights these are."""
    if not cfg.is_url:
        source = open_model(cfg.model)
        mesh = sharding.make_mesh(cfg.mesh)
        model = drawn_as(source.config, cfg.dtype, cfg.weights)
        local = Local(
            source, protocol, mesh, cfg.conversation, model, cfg.slots, say,
            cfg.drafts, cfg.draft_tokens,
        )  # fmt: skip
        kept = {} if cfg.weights == "stored" else {"kept": cfg.weights}
        return local, {"weights": source.state(), "dtype": cfg.dtype, **kept}
    check(jax.process_count() == 1, "--model=URL: one process asks a server")
    check(
        cfg.api == "chat" or cfg.conversation in ("auto", "r1_zero", "plain"),
        f"--conversation={cfg.conversation}: the server knows its model's template: --api=chat",
    )
    form: Form = "plain" if cfg.conversation == "plain" else "r1_zero"
    return (
        Remote(
            cfg.model,
            protocol,
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


def grader_of(cfg: Asking, form: str, language: str = "en") -> Grader:
    """language: that a thought should be in."""
    rewards = RewardConfig(format=0.0, own=cfg.reward, target_language=language)
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
def said_at_stop(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C in the midst of drawing into `out` loses what was under way alone."""
    try:
        yield
    except KeyboardInterrupt:
        kept = sum(1 for _ in (out / REPLIES).open("rb")) if (out / REPLIES).exists() else 0
        say(f"{kept:,} replies are kept in {out / REPLIES}; the same command goes on")
        raise
