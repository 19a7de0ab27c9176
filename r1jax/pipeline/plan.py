"""What R1's stages are told: one configuration of all of them, the embedded one and the paper's.

A field of a stage's run is a flag of its own: `--zero.steps=40`, `--cold-start.sft.optim.lr=1e-3`.
Where a stage begins from and writes to, its mesh and its seed are the pipeline's: `out`, `resume`,
`base`, `mesh` and `seed` of the runs inside are set by the stages (`r1jax/pipeline/stages.py`).
"""

import dataclasses

from r1jax.checks import check, check_positive, check_seed
from r1jax.config import Resume, RunConfig, SFTConfig
from r1jax.pipeline.rejection import RejectionConfig
from r1jax.reward_models.recipe import RewardModelConfig

WORLD = "world"  # a base, and data, that need no file


@dataclasses.dataclass(frozen=True)
class ColdStart:
    """Stage 1: R1-Zero's own replies, chosen, and in the world rewritten by rule (`readable.py`);
    the base is tuned on them."""

    sample: RejectionConfig
    sft: SFTConfig
    limit: int = 0  # problems that are asked, evenly spaced; 0: all
    data: str = ""  # rows of your own in place of R1-Zero's


@dataclasses.dataclass(frozen=True)
class RejectionSFT:
    """Stage 3: replies of the last model that are right and readable, and rows of other kinds; the
    base is tuned on both."""

    sample: RejectionConfig
    sft: SFTConfig
    limit: int = 0  # problems that are asked, evenly spaced; 0: all
    data: str = ""  # reasoning rows of your own in place of sampled ones
    general: str = ""  # rows of other kinds; empty: the world's
    ratio: float = 3.0  # reasoning rows to a general one, at most; 0: as many as there are

    def __post_init__(self):
        check(self.ratio >= 0, f"RejectionSFT.ratio must not be negative, got {self.ratio}")


@dataclasses.dataclass(frozen=True)
class AllScenarios:
    """Stage 4: two reward models, RL by rules alone, then with preferences."""

    helpful: RewardModelConfig
    safety: RewardModelConfig
    rules: RunConfig  # the steps without preferences
    preferences: RunConfig  # the last ones
    helpful_weight: float = 1.0
    helpful_kinds: str = ""  # KIND+KIND, or sources, that the helpfulness model is asked about
    safety_weight: float = 1.0
    safety_kinds: str = ""  # empty: all


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Rows drawn from R1, and a smaller model tuned on them; the same one trained by RL alone."""

    sample: RejectionConfig
    sft: SFTConfig
    alone: RunConfig | None  # None: without the comparison
    limit: int = 0  # problems that are asked, evenly spaced; 0: all
    data: str = ""  # rows of your own in place of R1's
    student: str = ""  # a model's directory or id; empty: the world's


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How every stage's model is asked at the end."""

    k: int = 8  # replies to a question; 0: as many as the benchmark's published evaluation drew
    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 32_768
    limit: int = 0  # questions of each set, evenly spaced; 0: all

    def __post_init__(self):
        check_positive(self, "max_tokens")
        check(self.k >= 0, f"Evaluate.k must not be negative, got {self.k}")


@dataclasses.dataclass(frozen=True)
class R1Config:
    """All stages. base: the model that stages 0, 1 and 3 begin from: a directory, an id on the Hub
    or a run's folder; `world` is the embedded one, which brings its data with it."""

    zero: RunConfig
    cold_start: ColdStart
    reasoning_rl: RunConfig
    rejection_sft: RejectionSFT
    all_scenarios: AllScenarios
    distill: Distillation
    evaluate: Evaluate
    base: str = WORLD
    heldout: str = ""  # a folder of problems to evaluate with, NAME.jsonl each; empty: the world's
    out: str = "runs/r1"
    seed: int = 0
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8
    resume: Resume = "no"  # --resume: yes, go on; auto: or start, if there is nothing yet
    #: Each change with the stage as it would be without: RL without the language reward, and
    #: preferences for the whole of stage 4.
    ablations: bool = False

    def __post_init__(self):
        check_seed(self.seed, "R1Config.seed")
        check(bool(self.out), "--out= is empty: expected a folder")
