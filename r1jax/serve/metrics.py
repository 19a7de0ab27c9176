"""What is counted, under the names that dashboards for vLLM know, behind a prefix of one's own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from r1jax.sampling.requests import EngineStats

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Of one server; `prefix` stands before each name: r1jax, or vllm for its dashboards."""

    def __init__(self, model: str, prefix: str = "r1jax"):
        self.registry = CollectorRegistry()

        def make(kind, name: str, about: str, *labels: str, **more):
            made = kind(
                f"{prefix}:{name}", about, ("model_name", *labels), registry=self.registry, **more
            )
            return made if labels else made.labels(model)

        self._model = model
        self.running = make(Gauge, "num_requests_running", "Requests that are being drawn.")
        self.waiting = make(Gauge, "num_requests_waiting", "Requests that wait for a slot.")
        self.prompt_tokens = make(Counter, "prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = make(Counter, "generation_tokens", "Tokens drawn.")
        self.reasoning_tokens = make(Counter, "reasoning_tokens", "Tokens drawn in thoughts.")
        self.prefix_queries = make(
            Counter, "prefix_cache_queries", "Prompt tokens looked for in the cache."
        )
        self.prefix_hits = make(
            Counter, "prefix_cache_hits", "Prompt tokens found in the cache, and not read again."
        )
        self.first_token = make(
            Histogram, "time_to_first_token_seconds", "Until a first token.", buckets=SECONDS
        )
        self.inter_token = make(
            Histogram, "inter_token_latency_seconds", "Between two tokens.", buckets=SECONDS
        )
        self.whole = make(
            Histogram, "e2e_request_latency_seconds", "Until the last token.", buckets=SECONDS
        )
        self._success = make(
            Counter, "request_success", "Replies that ended, by how.", "finished_reason"
        )
        self._refused = make(Counter, "request_refused", "Requests refused, by status.", "status")
        self.left = make(Counter, "request_abandoned", "Clients that left before the end.")
        self.cut_thinking = make(
            Counter, "cut_while_thinking", "Replies whose tokens ran out in their thought."
        )
        self.budget_closed = make(
            Counter, "thoughts_closed_by_budget", "Thoughts that their budget ended."
        )
        self.switches = make(Counter, "script_switches", "Changes of script within replies.")
        self.mixed = make(Counter, "mixed_replies", "Replies that change their script.")
        self._drafts = make(Counter, "spec_decode_num_drafts", "Steps that checked guesses.")
        self._guessed = make(Counter, "spec_decode_num_draft_tokens", "Tokens guessed.")
        self._right = make(Counter, "spec_decode_num_accepted_tokens", "Of these, the right ones.")
        self._right_at = make(
            Counter,
            "spec_decode_num_accepted_tokens_per_pos",
            "Of these, the first of a step (0), the second, and so on.",
            "position",
        )
        self._told = EngineStats()

    def ended(self, reason: str) -> None:
        self._success.labels(self._model, reason).inc()

    def refused(self, status: int) -> None:
        self._refused.labels(self._model, str(status)).inc()

    def drafted(self, stats: EngineStats) -> None:
        """All that the engine has done; it is told some time."""
        new, self._told = stats - self._told, stats
        self._drafts.inc(new.drafts)
        self._guessed.inc(new.draft_tokens)
        self._right.inc(new.accepted_tokens)
        for position, count in enumerate(new.accepted_at):
            self._right_at.labels(self._model, str(position)).inc(count)

    def text(self) -> bytes:
        return generate_latest(self.registry)
