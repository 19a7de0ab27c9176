"""A pipeline's folder and configuration, as its stages see them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from r1jax import sharding, stored
from r1jax.checks import check
from r1jax.config import FolderConfig, RunConfig, SFTConfig
from r1jax.pipeline.plan import WORLD, R1Config
from r1jax.reward_models.recipe import RewardModelConfig


@dataclasses.dataclass(frozen=True)
class At:
    """cfg: of all stages. say: is told a line now and then.

    Runs of a stage are of the pipeline's mesh and seed, in its folder, and on the world's data
    where they name none; one that was begun goes on.
    """

    cfg: R1Config
    say: Callable[[str], None]

    @property
    def out(self) -> Path:
        return Path(self.cfg.out)

    @property
    def begins(self) -> str:
        """The base model."""
        return self.world("model") if self.cfg.base == WORLD else self.cfg.base

    def world(self, name: str) -> str:
        return str(self.out / "world" / name)

    def mesh(self) -> Mesh:
        return sharding.make_mesh(self.cfg.mesh)

    def rl(self, cfg: RunConfig, out: str, data: str = "reasoning.jsonl") -> RunConfig:
        return dataclasses.replace(cfg, **self._own(cfg, out), data=cfg.data or self.data(data))

    def sft(self, cfg: SFTConfig, out: str, data: Path) -> SFTConfig:
        return dataclasses.replace(cfg, **self._own(cfg, out), data=str(data))

    def judge(self, cfg: RewardModelConfig, out: str, data: str) -> RewardModelConfig:
        return dataclasses.replace(cfg, **self._own(cfg, out), data=cfg.data or self.data(data))

    def data(self, named: str) -> str:
        """Files of the world, by commas. Raises InputError where there is no world."""
        given = f"--base={self.cfg.base}: each stage that needs data must be given its --STAGE.data"
        check(self.cfg.base == WORLD, given)
        return ",".join(self.world(part) for part in named.split(","))

    def _own(self, cfg: FolderConfig, out: str) -> dict[str, Any]:
        # A bucket has no folder before there is something in it.
        begun = (self.out / out / "metrics.jsonl").exists()
        begun = begun or stored.place(cfg.checkpoint_to, self.out / out).is_dir()
        own: dict[str, Any] = {"out": str(self.out / out), "resume": "auto" if begun else "no"}
        return own | {"mesh": self.cfg.mesh, "seed": self.cfg.seed}
