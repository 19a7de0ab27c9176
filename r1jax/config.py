"""What a run is told: frozen configurations, validated on construction (of models:
`architecture`).

Every check names the field that is wrong, so that a typing mistake on the command line comes
back as one clear line instead of a shape error from inside a compiled function.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

from r1jax.architecture import LoraConfig, ModelConfig, check_moves
from r1jax.checks import check, check_positive, check_seed

# What can be asked: each names the form of its data, too (`r1jax.data.sources.READERS`).
TaskName = Literal[
    "countdown", "stories", "problems", "gsm8k", "math", "aime", "amc", "svamp", "mmlu", "mmlu_pro",
    "mmlu_redux", "ceval", "gpqa", "ifeval", "humaneval", "mbpp", "livecodebench", "codeforces",
    "swebench", "gym",
]  # fmt: skip

# How the model is asked and answers (`r1jax.data.conversation`). auto: by its chat template if it
# has one, else by R1-Zero's prompt where problems are asked, and plainly where a text goes on.
ConversationName = Literal["auto", "plain", "r1_zero", "chat"]
# Where tokens come from that are checked several at a time (`r1jax.sampling.drafts`).
DraftsName = Literal["none", "lookup", "mtp"]
MOST_DRAFTS = 7  # tokens guessed a step
Long = Literal["stop", "drop"]  # what a prompt or document that is too long does to the run

# Whether a run goes on from what its folder holds: it must not hold a run (no), it must (yes), or
# either will do (auto, for job scripts).
Resume = Literal["no", "yes", "auto"]
# What a rollout is trained with (`r1jax.rl.algorithms.ALGORITHMS`).
CorrectionName = Literal["none", "tis", "icepop"]
AlgorithmName = Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce++", "cispo", "ppo"]


#: A second moment moves by 1 - b2 of itself or so, of which bfloat16 keeps steps of 2^-8.
MOST_B2 = 0.99


def check_learns(optim: "OptimConfig") -> None:
    """For what is trained to be used; raises InputError if it could not be."""
    check(optim.lr > 0, f"OptimConfig.lr must be positive, got {optim.lr}")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW with clipping, warm-up and an optional cosine decay, and the router's balance rule."""

    lr: float = 3e-4  # 0: a run of RL that learns nothing, to compare others with
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    steps: int = 0  # length of the cosine, warm-up included
    final: float = 0.05  # where the cosine ends, as a fraction of lr
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    #: What AdamW's moments are kept in; they are computed in float32. bfloat16 halves them, as V3
    #: had them (arXiv 2412.19437, section 3.3.2, with b2 = 0.95).
    moments: Literal["float32", "bfloat16"] = "float32"
    # Balance of the router. At rest unless a model is pre-trained: V3 ended its pre-training with a
    # gamma of 0 (arXiv 2412.19437, section 4.2), and routing that moves without a gradient changes
    # the ratios between the updates of a rollout. V3's: 1e-3 and 1e-4.

    bias_rate: float = 0.0  # gamma: how far a selection bias moves an update
    balance_alpha: float = 0.0  # weight of the sequence-wise balance loss
    mtp_weight: float = 0.3  # DeepSeek-V3's lambda; only used where the model has MTP depths

    def __post_init__(self):
        check_positive(self, "clip_norm")
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            fits = isinstance(value, str) or (math.isfinite(value) and value >= 0)
            check(fits, f"OptimConfig.{f.name} must be finite and not negative, got {value}")
        for name in ("b1", "b2"):
            value = getattr(self, name)
            check(value < 1, f"OptimConfig.{name} must be less than 1, got {value}")
        check(
            self.moments == "float32" or self.b2 <= MOST_B2,
            f"OptimConfig.moments=bfloat16 cannot hold what b2={self.b2} adds to the second moment "
            f"of a step: at most {MOST_B2}",
        )
        check(
            self.lr > 0 or self.bias_rate == 0,
            f"OptimConfig.lr=0 learns nothing, but bias_rate={self.bias_rate} moves the router",
        )
        check(
            self.schedule == "constant" or self.steps > self.warmup,
            f"OptimConfig.steps={self.steps} must exceed warmup={self.warmup} for a cosine",
        )


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How replies are drawn, and how many at a time."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    max_prompt: int = 64  # tokens; a longer prompt is an error, never cut
    max_tokens: int = 256  # of a reply
    slots: int = 128  # replies decoded side by side at most; it costs what is in use
    #: Finished slots are refilled, and prompts read, this many at a time; refilled all at once is
    #: plain batching.
    refill: int = 32
    #: Speculative decoding. No reply depends on it: only how many steps it takes does.
    drafts: DraftsName = "none"
    draft_tokens: int = 2  # guessed a step

    def __post_init__(self):
        check_positive(self, "max_prompt", "max_tokens", "slots", "refill", "draft_tokens")
        check(
            self.drafts in get_args(DraftsName),
            f"SamplingConfig.drafts must be one of {', '.join(get_args(DraftsName))}, got "
            f"{self.drafts!r}",
        )
        check(
            self.draft_tokens <= MOST_DRAFTS,
            f"SamplingConfig.draft_tokens must be at most {MOST_DRAFTS}, got {self.draft_tokens}",
        )
        check(
            0 <= self.temperature < math.inf,
            f"SamplingConfig.temperature must be finite and not negative, got {self.temperature}",
        )
        check(0 < self.top_p <= 1, f"SamplingConfig.top_p must lie in (0, 1], got {self.top_p}")
        check(self.top_k >= 0, f"SamplingConfig.top_k must not be negative, got {self.top_k}")
        check(
            self.slots % self.refill == 0,
            f"SamplingConfig.refill={self.refill} must divide SamplingConfig.slots={self.slots}",
        )


# Of a rollout, whose texts, grades and log-probabilities the host holds at once: R1's has 8,192.
MOST_REPLIES = 2**20


@dataclasses.dataclass(frozen=True)
class RLConfig:
    """One rollout and the updates made on it."""

    algorithm: AlgorithmName = "grpo"
    questions: int = 16  # a rollout
    group: int = 16  # replies a question, at least 2
    minibatches: int = 2  # updates a rollout, one after another
    #: Of packed replies, computed at once; the gradients of as many as an update's replies fill are
    #: summed. Less memory, same result.
    rows: int = 16
    row_tokens: int = 0  # of a row; at least (and for 0 just) max_prompt + max_tokens
    #: Of the difference between sampler and trainer (`rl/correction.py`); scores every reply once
    #: more a step. tis: tokens are weighed by the two's ratio, at most 2; icepop: by that ratio, 0
    #: outside [0.5, 5]; none: the ratio of the loss is against the sampler.
    correction: CorrectionName = "none"
    #: The update takes the experts that the sampler chose for each token (of models with MoE
    #: layers), which are recorded as it draws.
    routing_replay: bool = False
    clip_low: float | None = None  # how far a ratio may fall below 1; None: the algorithm's own
    clip_high: float | None = None  # and rise above it
    kl_coef: float | None = None  # of the penalty towards the reference; None: the algorithm's own
    reference_every: int = 400  # updates between hard replacements of the reference policy
    gamma: float | None = None  # ppo's discount a token, in [0, 1]; None: 1
    #: ppo's, in [0, 1]: 1 is the whole reply's reward, 0 the next value's; None: 1.
    gae_lambda: float | None = None
    #: ppo's: how far a value may move in a rollout, in units of the reward (inf: anywhere); None:
    #: 0.2.
    value_clip: float | None = None
    critic_lr: float | None = None  # of ppo's critic; None: five times optim.lr
    #: DAPO's dynamic sampling: draw up to this many times a step, each time for as many questions
    #: as mixed groups (neither all right nor all wrong) are missing. 1: off.
    max_draws: int = 1
    #: DAPO's overlong shaping: a penalty sets in this many tokens before max_tokens. 0: off.
    overlong_buffer: int = 0
    #: Of the penalty, which is 1 at full length. DAPO's is 1 where right and wrong are +1 and -1;
    #: here they are 1 and 0, so half of it keeps the relation: it never makes right worse than
    #: wrong by more than DAPO's does.
    overlong_weight: float = 0.5

    def __post_init__(self):
        check_positive(
            self,
            "questions",
            "group",
            "minibatches",
            "rows",
            "reference_every",
            "max_draws",
        )
        check(
            self.algorithm in get_args(AlgorithmName),
            f"RLConfig.algorithm must be one of {', '.join(get_args(AlgorithmName))}, got "
            f"{self.algorithm!r}",
        )
        check(
            self.correction in get_args(CorrectionName),
            f"RLConfig.correction must be one of {', '.join(get_args(CorrectionName))}, got "
            f"{self.correction!r}",
        )
        check(
            self.group > 1,
            f"RLConfig.group={self.group}: a reply is compared with the others of its group; with "
            "fewer than 2 there is no signal",
        )
        rows = self.questions * self.group
        check(
            rows <= MOST_REPLIES,
            f"RLConfig: questions x group = {rows:,} replies a rollout; at most {MOST_REPLIES:,}",
        )
        check(
            rows % self.minibatches == 0,
            f"RLConfig.minibatches={self.minibatches} must divide questions x group = {rows}",
        )
        check(
            self.row_tokens >= 0,
            f"RLConfig.row_tokens must not be negative, got {self.row_tokens}",
        )
        for name in ("clip_low", "clip_high", "kl_coef"):
            value = getattr(self, name)
            check(
                value is None or value >= 0,
                f"RLConfig.{name} must not be negative, got {value}",
            )
        for name in ("gamma", "gae_lambda", "value_clip", "critic_lr"):
            value = getattr(self, name)
            check(
                value is None or self.algorithm == "ppo",
                f"RLConfig.{name}={value}: algorithm={self.algorithm} has no critic, only ppo has; "
                f"None takes it back",
            )
        for name in ("gamma", "gae_lambda"):
            value = getattr(self, name)
            check(
                value is None or 0 <= value <= 1,
                f"RLConfig.{name} must lie in [0, 1], got {value}",
            )
        check(
            self.value_clip is None or self.value_clip > 0,
            f"RLConfig.value_clip must be positive, got {self.value_clip}",
        )
        check(
            self.critic_lr is None or 0 <= self.critic_lr < math.inf,
            f"RLConfig.critic_lr must be finite and not negative, got {self.critic_lr}",
        )
        for name in ("overlong_buffer", "overlong_weight"):
            value = getattr(self, name)
            check(value >= 0, f"RLConfig.{name} must not be negative, got {value}")
        check(
            self.overlong_buffer > 0 or self.overlong_weight == RLConfig.overlong_weight,
            f"RLConfig.overlong_weight={self.overlong_weight} weighs no penalty: "
            "RLConfig.overlong_buffer is 0",
        )


class RewardPart(NamedTuple):
    """A reward that is no built-in component: a function of a file, or a model's folder."""

    name: str
    path: str
    function: str  # "" of a model
    weight: float
    kinds: tuple[str, ...]  # of problem, or sources, that it is for; empty: all


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Weights of the reward's components (`rewards/components.py`), which are summed.

    The defaults are R1-Zero's: accuracy and format, equally (arXiv 2501.12948, section 2.2.2).
    A weight of 0 means that a component is computed and logged, and pays nothing; None, that it is
    left out. Accuracy and format are always logged.

    A KIND is a problem's kind (math, code, own, ...) or its source (gsm8k, ...).
    """

    accuracy: float = 1.0
    format: float = 1.0
    partial: float | None = None  # the check's partial credit, in [0, 1]
    language: float | None = None  # R1's language consistency, in [0, 1]
    repetition: float | None = None  # in (-1, 0]
    target_language: str = "en"  # that `language` asks for
    #: NAME:KIND[+KIND],...: built-in components that are for some kinds of problem only
    only: str = ""
    #: FILE.py:FUNCTION[:WEIGHT][:KIND+KIND],...: your own functions (`rewards/own.py`)
    own: str = ""
    own_seconds: float = 10.0  # that one call of them may take
    #: NAME=FOLDER[:WEIGHT][:KIND+KIND],...: trained reward models (`reward_models/`)
    models: str = ""
    #: What a rollout is paid for instead, so that rewards say nothing about answers
    #: (`rewards/blind.py`): random, a coin's 1 or 0; shuffled, the rewards of its own group.
    control: Literal["none", "random", "shuffled"] = "none"
    random_share: float = 0.5  # of replies that the coin pays

    def __post_init__(self):
        check_positive(self, "own_seconds")
        controls = ("none", "random", "shuffled")
        check(
            self.control in controls,
            f"RewardConfig.control must be one of {', '.join(controls)}, got {self.control!r}",
        )
        check(
            0 < self.random_share < 1,
            f"RewardConfig.random_share must lie in (0, 1), got {self.random_share}",
        )
        names = [*self.built_in(), *(part.name for part in (*self.own_parts, *self.model_parts))]
        for name in names:
            check(names.count(name) == 1, f"--reward: two components are called {name!r}")
            reserved = f"--reward: {name!r} is a name of --reward.control: call it otherwise"
            check(name not in controls, reserved)
        for name in self.kinds_of:
            known = ", ".join(self.built_in())
            check(name in self.built_in(), f"--reward.only: no component {name!r}, only {known}")
        for name, weight in self.weights.items():
            check(math.isfinite(weight), f"RewardConfig.{name} must be finite, got {weight}")
        check(any(self.weights.values()), "RewardConfig: every weight is 0, so there is no reward")

    @classmethod
    def built_in(cls) -> tuple[str, ...]:
        settings = (
            "target_language", "only", "own", "own_seconds", "models", "control", "random_share"
        )  # fmt: skip
        return tuple(f.name for f in dataclasses.fields(cls) if f.name not in settings)

    @property
    def weights(self) -> dict[str, float]:
        """Of the components that are computed."""
        given = {name: getattr(self, name) for name in self.built_in()}
        parts = {part.name: part.weight for part in (*self.own_parts, *self.model_parts)}
        return {name: weight for name, weight in given.items() if weight is not None} | parts

    @property
    def kinds_of(self) -> dict[str, tuple[str, ...]]:
        """Of the built-in components that are not for all kinds. Raises InputError."""
        found = {}
        for part in _parts(self.only):
            name, *kinds = part.split(":")
            check(len(kinds) == 1, f"--reward.only={part}: expected NAME:KIND[+KIND]")
            found[name] = _kinds(kinds[0], f"--reward.only={part}")
        return found

    @property
    def own_parts(self) -> list[RewardPart]:
        """Raises InputError for what is not FILE.py:FUNCTION[:WEIGHT][:KIND+KIND]."""
        found = []
        for part in _parts(self.own):
            file, *rest = part.split(":")
            form = "FILE.py:FUNCTION[:WEIGHT][:KIND+KIND]"
            ok = bool(file and rest) and rest[0].isidentifier()
            check(ok, f"--reward={part}: expected {form}")
            weight, kinds = _weight_and_kinds(rest[1:], f"--reward={part}", form)
            found.append(RewardPart(rest[0], file, rest[0], weight, kinds))
        return found

    @property
    def model_parts(self) -> list[RewardPart]:
        """Raises InputError for what is not NAME=FOLDER[:WEIGHT][:KIND+KIND]."""
        found = []
        for part in _parts(self.models):
            name, sign, value = part.partition("=")
            folder, *rest = value.split(":")
            form = "NAME=FOLDER[:WEIGHT][:KIND+KIND]"
            check(bool(name and sign and folder), f"--reward.models={part}: expected {form}")
            weight, kinds = _weight_and_kinds(rest, f"--reward.models={part}", form)
            found.append(RewardPart(name, folder, "", weight, kinds))
        return found


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _weight_and_kinds(rest: list[str], flag: str, form: str) -> tuple[float, tuple[str, ...]]:
    """Of `[WEIGHT][:KIND+KIND]`: 1 and all kinds, where they are left out."""
    weight = 1.0
    if rest:
        try:
            weight = float(rest[0])
            rest = rest[1:]
        except ValueError:  # kinds, then
            pass
    check(len(rest) <= 1, f"{flag}: expected {form}")
    return weight, _kinds(rest[0], flag) if rest else ()


def _kinds(text: str, flag: str) -> tuple[str, ...]:
    kinds = tuple(text.split("+"))
    check(all(kinds), f"{flag}: a kind of problem has no name")
    return kinds


# How many numbers a problem of the embedded countdown may give.
TIERS = (3, 4, 5, 6)


def tiers_of(text: str, field: str) -> tuple[int, ...]:
    """Of "3,4,5". Raises InputError that names the field."""
    known = [str(tier) for tier in TIERS]
    given = [part.strip() for part in text.split(",")]
    check(
        all(part in known for part in given) and len(set(given)) == len(given),
        f"{field} must name tiers from {', '.join(known)} by commas, each once, got {text!r}",
    )
    return tuple(map(int, given))


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What the embedded base model reads (`data/countdown.py`).

    Two facts are kept apart: how well a model reflects once it does (`practice` documents, under
    another first word, reflect until solved), and how often it does so under the prompt that RL
    uses (`reflective`). Both at 0 give a base that has never seen reflection: the control.
    """

    #: How many numbers its problems give: 3 to 6, by commas, equally often.
    tiers: str = "4"
    reflective: float = 0.02  # share of reflective traces among those that begin with "use"
    practice: float = 0.3  # share of documents that begin with "puzzle", and always reflect
    persistence: float = 1.0  # chance of a next attempt after a wrong one, under "use" alone

    # What a reflective trace is, under either first word, so that causes can be told apart.

    depth: int = 0  # attempts that a trace shows at most, then it gives up; 0: all that fit
    goes_on: float = 0.7  # chance of a next attempt after a wrong one (times `persistence`)
    verdicts: float = 1.0  # chance that a verdict is right; 0.5 says nothing
    #: Share of traces as long as others whose every step is right, and that give up before the
    #: solution: the behaviours without their success.
    wrong_answers: float = 0.0
    #: Share of traces of which all after the first attempt, which is then answered, is as many
    #: words that mean nothing: their length without their behaviours.
    filler: float = 0.0
    #: A trace has one attempt and a check of it, or several attempts and no check (2 to all,
    #: whatever goes_on says, which do not stop at the solution): skills never seen together.
    apart: bool = False

    def __post_init__(self):
        tiers_of(self.tiers, "CorpusConfig.tiers")
        shares = ("reflective", "practice", "persistence", "goes_on", "verdicts")
        for field in (*shares, "wrong_answers", "filler"):
            value = getattr(self, field)
            check(0 <= value <= 1, f"CorpusConfig.{field} must lie in [0, 1], got {value}")
        check(self.depth >= 0, f"CorpusConfig.depth must not be negative, got {self.depth}")
        check(
            self.wrong_answers == 0 or (self.verdicts == 1 and not self.apart),
            "CorpusConfig.wrong_answers is of whole traces whose verdicts are right: not with "
            "verdicts < 1 or apart",
        )
        check(
            not self.apart or self.depth != 1,
            "CorpusConfig.apart: attempts without a check are 2 to all or `depth`, so not with "
            "depth=1",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """What every configuration says of its run's folder (`r1jax/run.py`)."""

    out: str  # the run's folder
    resume: Resume = "no"  # --resume: yes, go on; auto: or start, if there is nothing yet
    checkpoint_to: str = ""  # a folder (its whole path) or gs://BUCKET/PATH; empty: `out`
    checkpoint_every: int = 10  # steps
    checkpoint_minutes: float = 30.0  # and a checkpoint so long after the last one; 0: never
    checkpoint_keep: int = 2  # the newest ones stay
    checkpoint_keep_every: int = 0  # and those of every so many steps; 0: none
    #: And the best by a metric of metrics.jsonl, such as heldout/accuracy, or -nll for the lowest.
    checkpoint_best: str = ""
    hang_minutes: float = 30.0  # a step of ten usual ones that takes longer ends the run; 0: never
    log: str = "tensorboard"  # and wandb, by commas: where metrics go beside the folder's files

    def __post_init__(self):
        check_positive(self, "checkpoint_every", "checkpoint_keep")
        for field in ("checkpoint_minutes", "checkpoint_keep_every", "hang_minutes"):
            value = getattr(self, field)
            check(value >= 0, f"{type(self).__name__}.{field} must not be negative, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(FolderConfig):
    """A complete run of R1-Zero."""

    model: ModelConfig
    task: TaskName = "countdown"
    #: Of the embedded countdown: how many numbers problems give, 3 to 6, by commas, equally often.
    #: The embedded base has read problems of 4 alone (--base=train --corpus.tiers for others).
    tiers: str = "4"
    #: [TASK=]FILE[:WEIGHT],...: problems of these forms, mixed by weight or else as one pool;
    #: empty: the embedded ones (countdown, stories).
    data: str = ""
    bad_rows: Literal["stop", "skip"] = "stop"  # what a malformed row of data does
    long_prompts: Long = "stop"  # what a prompt of more than sampling.max_prompt tokens does
    conversation: ConversationName = "auto"  # auto: chat if there is a template, else r1_zero
    tokenizer: str = ""  # tokenizer.json, or its directory; empty: the embedded words
    #: embedded | train | random | a run's folder | a .safetensors file | a Hugging Face directory
    #: or org/name@commit on its Hub, with which --model=DIR sets model and tokenizer too
    base: str = "embedded"
    corpus: CorpusConfig = CorpusConfig()  # what the embedded base has read (--base=train)
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8, or fsdp=16,expert=8,context=4
    out: str = "runs/r1_zero"  # the run's folder
    seed: int = 0
    steps: int = 50  # rollouts
    #: Held-out evaluations: at each of the first steps, in which a take-off may lie, then rarely.
    evaluate_dense: int = 8
    evaluate_every: int = 10  # steps, after those
    evaluate_samples: int = 128  # held-out replies at each evaluation
    final_samples: int = 1024  # and at the first and the last
    #: Writes every reply, of training and held out, to replies.jsonl, which experiments.emergence
    #: reads; samples.jsonl has a few a step in any case. About 0.5 kB a reply of 90 tokens.
    log_replies: bool = False
    #: Ends once its replies show that reflection rose and has risen for good
    #: (`analysis/emergence/settled.py`), which it reads in replies.jsonl.
    stop_when_settled: bool = False
    #: A run's folder: nothing is drawn or paid, and its right replies are learnt as next tokens, at
    #: the steps at which it drew them: a control of its rewards (`pipeline/supervised.py`).
    learn_from: str = ""
    heldout_share: float = 0.125  # of the problems
    grading_workers: int = 1  # processes that check formulas and programs
    i_know_that_model_code_runs_unsandboxed: bool = False  # where the host cannot isolate
    sandbox_numpy: bool = False  # sandboxed programs may import NumPy
    sampling: SamplingConfig = SamplingConfig()
    #: NAME=BIAS,...: added to the logits of a token of this text, or of all `reflective` ones,
    #: where replies are drawn, trained on and evaluated; -1e9 bans them (`rl/biases.py`).
    logit_bias: str = ""
    rl: RLConfig = RLConfig()
    reward: RewardConfig = RewardConfig()
    optim: OptimConfig = OptimConfig()
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)

    def __post_init__(self):
        super().__post_init__()
        check_positive(
            self,
            "steps",
            "evaluate_every",
            "evaluate_samples",
            "final_samples",
            "grading_workers",
        )
        check_seed(self.seed, "RunConfig.seed")
        tiers_of(self.tiers, "RunConfig.tiers")
        check(
            self.tiers == RunConfig.tiers or (self.task == "countdown" and not self.data),
            f"RunConfig.tiers={self.tiers} is of the embedded countdown: not with task={self.task}"
            + (f" and data={self.data}" if self.data else ""),
        )
        check(
            self.log_replies or not self.stop_when_settled,
            "--stop-when-settled is told by all replies of a run: it needs --log-replies",
        )
        check(
            not (self.learn_from and self.stop_when_settled),
            f"--learn-from={self.learn_from} draws no replies to train on, by which "
            "--stop-when-settled is told",
        )
        check(self.evaluate_dense >= 0, "RunConfig.evaluate_dense must not be negative")
        check(
            0 < self.heldout_share < 1,
            f"RunConfig.heldout_share must lie in (0, 1), got {self.heldout_share}",
        )
        sampling = self.sampling
        check(
            sampling.temperature > 0 and sampling.top_p == 1 and sampling.top_k == 0,
            "RunConfig.sampling: RL needs temperature > 0, top_p = 1 and top_k = 0, since the "
            "update's log-probabilities are of the whole distribution at that temperature",
        )
        check_moves(self.model, self.optim.lr)
        if self.rl.critic_lr is not None:
            check_moves(self.model, self.rl.critic_lr, "RLConfig.critic_lr")
        check(
            not self.rl.routing_replay or self.model.moe_layers > 0,
            "--rl.routing-replay: the model has no MoE layers, so there is no routing to replay",
        )
        check(
            not self.lora.rank or self.rl.algorithm != "ppo",
            "RLConfig.algorithm=ppo trains all weights of its critic: not with --lora.rank",
        )
        blind = f"--reward.control={self.reward.control}"
        check(
            self.reward.control == "none" or self.rl.max_draws == 1,
            f"{blind} pays without a look at answers, but --rl.max-draws={self.rl.max_draws} "
            "chooses groups by them",
        )
        check(
            self.reward.control != "random" or self.rl.overlong_buffer == 0,
            f"{blind} pays nothing else: not with --rl.overlong-buffer={self.rl.overlong_buffer}",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTConfig(FolderConfig):
    """Supervised fine-tuning of a model that exists."""

    model: ModelConfig
    base: str  # it starts from: a Hugging Face directory, org/name@commit, or a run's folder
    tokenizer: str  # the directory of its tokenizer, or tokenizer.json
    data: str = ""  # rows of "prompt" and "completion", or "messages"
    bad_rows: Literal["stop", "skip"] = "stop"  # what a malformed row of data does
    long_documents: Long = "stop"  # what a document of more than `length` tokens does
    conversation: ConversationName = "auto"  # auto: chat if there is a template, else plain
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8, or fsdp=16,expert=8,context=4
    out: str = "runs/sft"  # the run's folder
    seed: int = 0
    epochs: float = 2.0  # [R1, supplement: 2 to 3]
    steps: int = 0  # updates, whatever the epochs are; 0: as many as they make
    rows: int = 8  # of packed documents, an update
    length: int = 512  # tokens a row; a longer document is never cut
    log_every: int = 1  # updates
    checkpoint_every: int = 100  # updates
    #: As in R1's distillation; a cosine is as long as the run, whatever its own steps.
    optim: OptimConfig = OptimConfig(lr=5e-5, schedule="cosine", steps=1, final=0.1)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "epochs", "rows", "length", "log_every")
        check_seed(self.seed, "SFTConfig.seed")
        check(self.steps >= 0, f"SFTConfig.steps must not be negative, got {self.steps}")
        check_moves(self.model, self.optim.lr)
        check_learns(self.optim)
