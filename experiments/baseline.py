"""Does the base of a run reflect, at any temperature? What a verdict of "emerged" needs to know.

    python -m experiments.baseline runs/r1_zero               # to its baseline.json
    python -m experiments.baseline runs/r1_zero --samples=64 --temperatures=0.6,1
    python -m experiments.emergence runs/r1_zero              # a verdict, which reads it

Asks the held-out questions of a run of the base that it began with: --samples replies a question at
every temperature, how many of them reflect, and, over the replies at temperature 1 (or nearest to
it), the largest probability of a first reflective token at any place. The verdict calls reflection
emerged only where none of some 16,000 replies reflects and no place makes it likely.

Then how likely the run's own replies are to the base, reflective ones and others apart, and the
entropy of both at forks (`r1jax/analysis/emergence/likelihood.py`), over --likely-samples replies a
question. In the embedded world also how well base and run add up and judge, by teacher forcing
(`r1jax/analysis/emergence/competence.py`).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import cli
from experiments.intervene import run_of
from r1jax import sharding, stored
from r1jax.analysis.emergence.bans import reflective_tokens
from r1jax.analysis.emergence.baseline import TEMPERATURES, first_token_probability, reflective
from r1jax.analysis.emergence.competence import Competence, competence
from r1jax.analysis.emergence.intervals import rule_of_three
from r1jax.analysis.emergence.likelihood import Likelihood, Written, likelihood, lines
from r1jax.analysis.emergence.logs import Reply
from r1jax.analysis.reflection import has_thoughts
from r1jax.checkpoint import load_weights
from r1jax.checks import InputError, check, check_seed
from r1jax.config import RunConfig
from r1jax.data.tasks import fit_prompts, make_task
from r1jax.evaluation.questions import evenly
from r1jax.files import write_whole
from r1jax.model.params import Weights
from r1jax.model.quantise import keep_weights, kept_specs
from r1jax.models import with_vocab
from r1jax.pipeline.reinforcement import base_weights
from r1jax.sampling.engine import Request
from r1jax.sampling.lanes import Lanes


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    run: str = ""  # a run's folder: also the first argument
    samples: int = 12  # replies a question and temperature
    temperatures: str = ",".join(f"{t:g}" for t in TEMPERATURES)  # by commas
    likely_samples: int = 4  # of these, of base and run, whose likelihood is told; 0: none
    questions: int = 0  # evenly spaced held-out ones; 0: all
    seed: int = 0
    out: str = ""  # baseline.json of the run's folder
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8

    def __post_init__(self):
        check(self.samples > 0, f"--samples must be positive, got {self.samples}")
        none = f"--likely-samples must not be negative, got {self.likely_samples}"
        check(self.likely_samples >= 0, none)
        check(self.questions >= 0, f"--questions must not be negative, got {self.questions}")
        check_seed(self.seed, "--seed")
        self.at()

    def at(self) -> list[float]:
        try:
            found = [float(part) for part in self.temperatures.split(",")]
        except ValueError:
            found = []
        check(
            bool(found) and all(0 < t < float("inf") for t in found),
            f"--temperatures={self.temperatures}: expected positive numbers by commas",
        )
        return found


class Look:
    """The base of a run, and what it is asked. Raises InputError for a run whose replies hold no
    thoughts."""

    def __init__(self, cfg: BaselineConfig, run: RunConfig):
        task, _ = fit_prompts(make_task(run), run.sampling.max_prompt, run.long_prompts)
        run = with_vocab(run, task.tokenizer.vocab_size)
        some = evenly(len(task.heldout), cfg.questions or len(task.heldout))
        self.problems = [task.heldout[i] for i in some]
        check(
            all(has_thoughts(p.kind) for p in self.problems),
            f"{cfg.run}: replies to its problems hold no thoughts to look for reflection in",
        )
        self.cfg, self.task, self.model = cfg, task, run.model
        self.mesh = sharding.make_mesh(cfg.mesh)
        base = keep_weights(base_weights(run, self.mesh), run.model)
        where = sharding.shardings(kept_specs(run.model), self.mesh)
        self.weights = sharding.place(base, where)
        ends = sorted(task.tokenizer.end_ids)
        self.engine = Lanes(run.model, run.sampling, self.mesh, ends)
        prompts = [task.prompt(problem) for problem in self.problems]
        self.asked = [(q, i) for q in range(len(prompts)) for i in range(cfg.samples)]
        self.prompts = [prompts[q] for q, _ in self.asked]

    def drawn(
        self,
        temperature: float,
        number: int,
        weights: Weights | None = None,
        asked: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """A reply to each of `asked` (places in what is asked; all), of the base or of `weights`;
        number: of the temperature, which has keys of its own."""
        some = range(len(self.asked)) if asked is None else asked
        key = jax.random.fold_in(jax.random.key(self.cfg.seed), number)
        requests = [Request(self.prompts[k], *self.asked[k], temperature=temperature) for k in some]
        completions, _ = self.engine.generate(
            self.weights if weights is None else weights, requests, key
        )
        return [c.tokens.tolist() for c in completions]

    def reflects(
        self, replies: Sequence[Sequence[int]], asked: Sequence[int] | None = None
    ) -> list[bool]:
        read, some = self.task.tokenizer.decode, range(len(self.asked)) if asked is None else asked
        return reflective(
            [
                Reply(
                    0,
                    self.problems[self.asked[k][0]].id,
                    read(self.prompts[k]),
                    self.task.text(tokens),
                )
                for k, tokens in zip(some, replies, strict=True)
            ]
        )

    def likely(self, replies: Sequence[Sequence[int]]) -> float:
        """The largest probability of a first reflective token."""
        embedded = self.task.conversation.form == "embedded"
        by_term = reflective_tokens(self.task.tokenizer, embedded, self.cfg.run)
        ids = {i for some in by_term.values() for i in some}
        with jax.set_mesh(self.mesh):
            return first_token_probability(
                self.weights, self.model, self.prompts, replies, sorted(ids)
            )

    def likelihood(self, run: Weights, replies: Sequence[Sequence[int]]) -> Likelihood:
        """Of what the run's weights draw, and of these replies of the base, at temperature 1."""
        some = [k for k, (_, i) in enumerate(self.asked) if i < self.cfg.likely_samples]
        own = self._written([replies[k] for k in some], some)
        drawn = self._written(self.drawn(1.0, len(self.cfg.at()), run, some), some)
        with jax.set_mesh(self.mesh):
            return likelihood(self.weights, run, self.model, own, drawn)

    def _written(self, replies: Sequence[Sequence[int]], asked: Sequence[int]) -> Written:
        return Written(
            [self.prompts[k] for k in asked],
            replies,
            np.array([self.asked[k][0] for k in asked]),
            np.array(self.reflects(replies, asked)),
        )

    def competence(self, weights: Weights) -> Competence | None:
        """None where there is no grammar to ask by."""
        if self.task.conversation.form != "embedded":
            return None
        with jax.set_mesh(self.mesh):
            return competence(weights, self.model, self.task.conversation, self.problems)


def main(args: list[str]) -> None:
    args = list(args)
    if args and not args[0].startswith("-"):
        args[0] = f"--run={args[0]}"
    cfg = cli.parse(BaselineConfig, BaselineConfig(), args, __doc__ or "")
    check(bool(cfg.run), "a run is needed: python -m experiments.baseline runs/r1_zero")
    folder = Path(cfg.run)
    check(folder.is_dir(), f"{cfg.run}: no such folder")
    run = run_of(folder)
    if run is None:
        raise InputError(f"{cfg.run}: not the folder of an RL run")
    out = cli.new_file(Path(cfg.out) if cfg.out else folder / "baseline.json")
    look = Look(cfg, run)
    print(
        f"{cfg.run}: base {run.base}, {len(look.problems):,} questions x {cfg.samples} replies a "
        "temperature"
    )
    counts: dict[str, list[int]] = {}
    temperatures, likely, of_base = cfg.at(), 0.0, []
    for number, temperature in enumerate(temperatures):
        replies = look.drawn(temperature, number)
        found = look.reflects(replies)
        k, n = counts[f"{temperature:g}"] = [sum(found), len(found)]
        share = f"{k / n:.2%}" if k else f"at most {rule_of_three(n):.2%}"
        print(f"temperature {temperature:<8g}{k:,} of {n:,} replies reflect ({share})")
        if temperature == min(temperatures, key=lambda t: abs(t - 1)):
            likely, of_base = look.likely(replies), replies
    print(
        f"first reflective token  at most {likely:.2g} likely, at any place of those nearest to 1"
    )
    known, written = {"base": look.competence(look.weights)}, None
    if stored.steps(stored.of(folder)):
        trained = load_weights(folder, look.model, look.mesh)
        known["run"] = look.competence(trained)
        if cfg.likely_samples:
            written = look.likelihood(trained, of_base)
            for line in lines(written):
                print(line)
    for name, one in known.items():
        if one is not None:
            print(
                f"{name:<8}slips {one.slips:.2%} of the steps; calls right {one.accepts_wrong:.2%} "
                f"of the wrong totals, wrong {one.rejects_right:.2%} of the right ones; opens a "
                f"check with {one.opens:.2%}"
            )
    told = {
        "by_temperature": counts,
        "max_first_token_probability": likely,
        "competence": {name: dataclasses.asdict(one) for name, one in known.items() if one},
        **({"likelihood": dataclasses.asdict(written)} if written else {}),
        "samples": cfg.samples,
        "seed": cfg.seed,
        "questions": len(look.problems),
    }
    if jax.process_index() == 0:
        write_whole(out, json.dumps(told) + "\n")
    print(f"written                 {out}")


if __name__ == "__main__":
    cli.run(main)
