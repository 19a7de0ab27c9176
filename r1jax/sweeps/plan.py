"""The members of a grid: which runs there are, where they lie, and what may not be touched."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1jax.base import EMBEDDED, BaseConfig, cached, read_note
from r1jax.checks import check
from r1jax.config import RunConfig
from r1jax.config_file import fields_of, from_values
from r1jax.presets import tiny_base
from r1jax.sweeps.grid import OWN_BASES, Configuration, Grid, varied


@dataclasses.dataclass(frozen=True)
class Member:
    """One run. recipe: of the base that has to be made first; None where there is one already.
    source: the folder of the member that has to be finished first, whose replies it learns from;
    None where it draws its own. axes: what it has of the fields that the grid varies."""

    configuration: Configuration
    seed: int
    base_seed: int
    cfg: RunConfig
    recipe: BaseConfig | None
    axes: dict[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.cfg.out)

    @property
    def source(self) -> Path | None:
        return Path(self.cfg.learn_from) if self.cfg.learn_from else None

    @property
    def name(self) -> str:
        return self.folder.name

    def note(self) -> dict[str, Any]:
        """member.json, as the verdict reads it."""
        return {
            "configuration": self.configuration.name,
            "seed": self.seed,
            "base_seed": self.base_seed,
            "control": self.configuration.control,
            "why": self.configuration.why,
            "axes": self.axes,
        }


def plan(grid: Grid, out: Path) -> list[Member]:
    """All members of the grid, a configuration after the other, each with a folder in `out`.

    Raises InputError if two would have the same.
    """
    fields = varied(grid.configurations)
    members: list[Member] = []
    taken: dict[str, str] = {}
    for one in grid.configurations:
        cfg, slug = grid.config(one), _slug(one.name)
        check(
            slug not in taken,
            f"configurations {taken.get(slug)!r} and {one.name!r} would lie in the same folders, "
            f"{slug}-seed_...: call one of them something else",
        )
        taken[slug] = one.name
        axes = {name: fields_of(cfg)[name] for name in fields}
        for seed in grid.seeds_of(one):
            base_seed = seed % grid.bases
            base, recipe = _base(cfg, base_seed)
            name, to = _name(one.name, seed), cfg.checkpoint_to.rstrip("/")
            whole = dataclasses.replace(
                cfg,
                seed=seed,
                out=str(out / name),
                checkpoint_to=to and f"{to}/{name}",
                resume="auto",
                base=base,
            )
            if cfg.learn_from:
                source = str(out / _name(cfg.learn_from, seed))
                whole = dataclasses.replace(whole, learn_from=source)
            members.append(Member(one, seed, base_seed, whole, recipe, axes))
    return members


def _base(cfg: RunConfig, base_seed: int) -> tuple[str, BaseConfig | None]:
    """What the run begins from, and how that is made. Of one that is not ours there is one."""
    if cfg.base not in OWN_BASES:
        return cfg.base, None
    recipe = tiny_base(cfg.corpus, cfg.model, cfg.heldout_share, base_seed)
    if recipe.digest() == read_note(EMBEDDED)["digest"]:
        return "embedded", None
    return str(cached(recipe)), recipe


def _name(configuration: str, seed: int) -> str:
    return f"{_slug(configuration)}-seed_{seed}"


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.")
    check(bool(slug), f"configuration {name!r}: its name has no letter or digit to call a folder")
    return slug


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n". Raises InputError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    check(found is not None, f"--shard={text}: expected i/n, such as 1/4")
    assert found is not None
    i, n = map(int, found.groups())
    check(1 <= i <= n, f"--shard={text}: i must lie between 1 and n")
    return i, n


def shard_of(members: Sequence[Member], i: int, n: int) -> list[Member]:
    """Of each configuration about as many. A member that learns from another's replies is in the
    shard of that one."""
    learn = {member.source: member for member in members if member.source is not None}
    own = [member for member in members if member.source is None]
    own.sort(key=lambda member: member.folder not in learn)  # two that are one come first
    shards: list[list[Member]] = [[] for _ in range(n)]
    for member in own:
        pair = [member, learn[member.folder]] if member.folder in learn else [member]
        min(shards, key=len).extend(pair)
    mine = {member.name for member in shards[i - 1]}
    return [member for member in members if member.name in mine]


def is_finished(member: Member) -> bool:
    """To its last step, with its report."""
    done = _read(member.folder / "run.json").get("status") == "finished"
    return done and (member.folder / "report.html").exists()


# Fields that a member may go on with otherwise.
FREE = ("out", "resume", "log", "hang_minutes")


def check_folders(members: Sequence[Member], resume: bool) -> None:
    """Raises InputError if a run is already where a member would be and may not go on there: it
    was made with other fields, or nobody said --resume."""
    for member in members:
        before = _read(member.folder / "config.json")
        there = any((member.folder / f).exists() for f in ("metrics.jsonl", "checkpoints"))
        if not before and not there:
            continue
        check(
            resume,
            f"{member.folder} already holds a run: --resume goes on with the sweep, or choose "
            "another --out",
        )
        if not before:
            continue
        try:
            was, now = fields_of(from_values(RunConfig, before)), fields_of(member.cfg)
        except Exception as error:
            check(False, f"{member.folder}/config.json: {error}")
        for name, value in now.items():
            same = was[name] == value
            if name == "base":  # wherever the cache was then
                same = Path(was[name]).name == Path(value).name
            if name == "model.vocab":  # 0: as the tokenizer has it
                same = same or value == 0
            check(
                same or name in FREE or name.startswith("checkpoint_"),
                f"{member.folder} was made with {name}={was[name]}, and the grid says {value}: "
                "choose another --out",
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
