"""A model behind OpenAI's API, drawn by the engine that draws rollouts, and a page to talk to it.

    pip install '.[serve]'
    python -m experiments.serve                                # the embedded model
    python -m experiments.serve --model=runs/r1_zero           # the folder of a run
    python -m experiments.serve --model=DIR --port=8001        # of Hugging Face, or its org/name
    python -m experiments.serve --model=DIR --weights=int4     # in 4 bits, for a small card
    R1JAX_API_KEY=... python -m experiments.serve --host=0.0.0.0

/v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, /metrics, /health,
/version, and the page at /. docs/serving.md says what requests may ask. Temperature, top-p and
top-k are those of experiments.generate where a request has none, and the same seed draws the same
reply there.

SIGTERM and Ctrl-C take no new requests, finish those accepted, --drain seconds at most, and end.
The key that clients must give is read from --key-file or R1JAX_API_KEY. --metrics-prefix=vllm gives
metrics the names that dashboards for vLLM have.
"""

import dataclasses
import math
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Literal

import jax

from experiments import cli
from r1jax import sharding
from r1jax.checks import InputError, check, check_drawing
from r1jax.config import ConversationName, DraftsName, SamplingConfig
from r1jax.models import Computed, Kept, drawn_as, open_model
from r1jax.sampling.engine import Engine, Request

READ = 2**15  # positions that are read at a time, where more than one prompt waits


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    model: str = "embedded"
    name: str = ""  # that clients call it; empty: as --model says
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    conversation: ConversationName = "auto"  # how the model is asked
    advice: Literal["none", "r1", "r1_0528"] = "none"  # DeepSeek's, on how to ask its two R1s
    strict: Literal["", "deepseek-r1"] = ""  # refuses and ignores what that API did
    reasoning: Literal["both", "reasoning_content", "reasoning"] = "both"  # the thought's fields
    language: str = ""  # of replies, such as en: tokens of other scripts are forbidden
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    max_tokens: int = 0  # of a reply, at most; 0: what the context leaves
    context: int = 0  # tokens of prompt and reply; 0: the model's
    slots: int = 32  # replies drawn side by side
    prefix_cache: bool = True  # what prompts begin with alike is read once
    drafts: DraftsName = "none"  # guesses that draw several tokens a step, and the same replies
    draft_tokens: int = SamplingConfig.draft_tokens  # guessed a step
    queue: int = 256  # requests that wait, at most
    deadline: float = 600.0  # seconds that a request may take
    max_body: int = 2**20  # bytes of a request
    drain: float = 600.0  # seconds that accepted requests have to end in, at the end
    key_file: str = ""
    log_prompts: bool = False
    metrics_prefix: Literal["r1jax", "vllm"] = "r1jax"
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8
    dtype: Computed = "stored"
    weights: Kept = "stored"  # int8, int4: matrices rounded to so many bits as they are read

    def __post_init__(self):
        for name in ("slots", "queue", "max_body"):
            value = getattr(self, name)
            check(value > 0, f"--{name.replace('_', '-')} must be positive, got {value}")
        for name in ("deadline", "drain"):
            value = getattr(self, name)
            check(0 < value < math.inf, f"--{name} must be positive and finite, got {value}")
        check_drawing(self.temperature, self.top_p, self.top_k)
        most = f"--temperature must be at most 2, as a request's, got {self.temperature}"
        check(self.temperature <= 2, most)
        check(0 <= self.port < 2**16, f"--port must lie between 0 and 65535, got {self.port}")
        check(self.max_tokens >= 0, f"--max-tokens must not be negative, got {self.max_tokens}")
        check(self.context >= 0, f"--context must not be negative, got {self.context}")


def engine_of(cfg: ServeConfig):
    """(its conversation, the engine with its weights) Raises InputError."""
    source = open_model(cfg.model)
    conversation = source.conversation(cfg.conversation, "plain")
    model = drawn_as(source.config, cfg.dtype, cfg.weights)
    context = cfg.context or model.context
    check(
        1 < context <= model.context,
        f"--context={context}: the model's is {model.context} tokens, and 2 are the least",
    )
    mesh = sharding.make_mesh(cfg.mesh)
    check(jax.process_count() == 1, "a server runs in one process: leave out --distributed")
    sampling = SamplingConfig(
        cfg.temperature,
        cfg.top_k,
        cfg.top_p,
        max_prompt=context - 1,
        max_tokens=min(cfg.max_tokens or context - 1, context - 1),
        slots=cfg.slots,
        refill=1,  # nobody waits for others to come
        drafts=cfg.drafts,
        draft_tokens=cfg.draft_tokens,
    )
    ends = sorted(conversation.tokenizer.end_ids)
    together = max(1, min(cfg.slots, READ // context))  # of those that are there
    engine = Engine(
        model, sampling, mesh, ends, positions=context, reuse=cfg.prefix_cache, together=together
    )
    engine.load(source.weights(model, mesh))
    return conversation, engine


def warm(engine: Engine) -> None:
    """Compiles what every request runs."""
    engine.submit(Request([0, 0], 0, 0, max_tokens=1))
    while engine.busy:
        engine.step()
    engine.clear()


def key_of(cfg: ServeConfig) -> str:
    """The API key; empty: none is asked for."""
    if not cfg.key_file:
        return os.environ.get("R1JAX_API_KEY", "")
    try:
        key = Path(cfg.key_file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        raise InputError(f"--key-file={cfg.key_file}: {reason}") from None
    check(bool(key), f"--key-file={cfg.key_file}: the file is empty")
    return key


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host={host} --port={port}: {reason}") from None


def main(args: list[str]) -> None:
    cfg = cli.parse(ServeConfig, ServeConfig(), args, __doc__ or "")
    try:
        import uvicorn

        from r1jax.serve.app import App
        from r1jax.serve.served import Limits, Manner, Served
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install '.[serve]'") from None
    key = key_of(cfg)
    sock = listen(cfg.host, cfg.port)
    conversation, engine = engine_of(cfg)
    both = ("reasoning_content", "reasoning")
    manner = Manner(
        strict=bool(cfg.strict),
        advice=cfg.advice,
        reasoning=both if cfg.reasoning == "both" else (cfg.reasoning,),
        language=cfg.language,
        log_prompts=cfg.log_prompts,
        key=key,
    )
    served = Served(cfg.name or cfg.model, conversation, engine, manner)
    limits = Limits(cfg.queue, cfg.max_body, cfg.deadline)
    app = App(served, limits, cfg.metrics_prefix, loopback=is_loopback(cfg.host))
    warm(engine)
    config = uvicorn.Config(
        app.asgi(),
        log_level="info" if cfg.log_prompts else "warning",
        timeout_graceful_shutdown=math.ceil(cfg.drain),
        server_header=False,
    )
    # uvicorn raises the signal again once all is finished; then it means no more.
    signal.signal(signal.SIGTERM, lambda *_: None)
    host, port = sock.getsockname()[:2]
    at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if not is_loopback(cfg.host):
        guarded = "whoever has the key" if key else "anyone, as there is no key (R1JAX_API_KEY)"
        print(f"warning: {cfg.host} is reached from other machines, by {guarded}", file=sys.stderr)
    print(f"{served.name}: {at}/v1, and a page at {at}/", flush=True)
    uvicorn.Server(config).run(sockets=[sock])
    print("served: all accepted requests have ended", flush=True)


if __name__ == "__main__":
    cli.run(main)
