"""Where the time goes, as ratios within one run.

    python -m experiments.bench                # the tiny preset
    python -m experiments.bench --mesh=4x2

Prints tokens/s and the time split of rollout, scoring (log-probabilities alone) and update, and
compares continuous batching with plain batching on long-tailed reply lengths. Where the parity
extra is installed, decoding, prefill and training are then compared with Transformers' own
(`python -m experiments.bench.transformers` does that alone).
"""

import dataclasses
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from experiments import cli
from r1jax import sharding
from r1jax.base import EMBEDDED, load_weights
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tasks import make_task
from r1jax.presets import RUNS
from r1jax.rl.grpo import row_log_probs
from r1jax.rl.loop import Trainer, new_grader, new_policy
from r1jax.rl.types import fill
from r1jax.sampling.engine import Engine, Request


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of run(), after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def step_split(mesh_text: str) -> None:
    """Rollout, scoring and update of one step of the tiny preset."""
    cfg = dataclasses.replace(RUNS["tiny"](), mesh=mesh_text)
    mesh, task = sharding.make_mesh(mesh_text), make_task(cfg)
    with new_grader(cfg) as grader, jax.set_mesh(mesh):
        trainer = Trainer(cfg, task, mesh, grader)
        state = new_policy(cfg, load_weights(EMBEDDED, cfg.model), mesh)
        samples, _, _ = trainer.rollout(state.train.weights, 0, 0)
        host = trainer.rollout_of(samples, 0)
        rollout = trainer.to_devices(host)
        reply = sum(len(s.completion.tokens) for s in samples)
        filled = int(host.filled_M[0])  # of the first update alone
        rows = jax.tree.map(lambda a: a[0, :filled].reshape(-1, *a.shape[3:]), host.rows)
        positions = rows.tokens_BT.size * cfg.rl.minibatches

        score = jax.jit(lambda w, rows: row_log_probs(w, rows, cfg.model, 1.0)[0])
        holder = [state]

        def update():
            holder[0], metrics = trainer.step(holder[0], rollout)
            return metrics

        rollout_s = seconds(lambda: trainer.rollout(holder[0].train.weights, 0, 0)[1])
        scoring_s = cfg.rl.minibatches * seconds(lambda: score(holder[0].train.weights, rows))
        update_s = seconds(update)
    print(
        f"tiny preset, mesh {mesh_text}: {len(samples)} replies, {reply:,} reply tokens, "
        f"about {positions:,} positions with padding (rows {fill(host):.0%} full)"
    )
    parts = {"rollout": (rollout_s, reply), "scoring": (scoring_s, positions)}
    parts["update"] = update_s, positions
    for name, (took, tokens) in parts.items():
        share, rate = took / (rollout_s + update_s), tokens / took
        print(f"  {name:8} {took:7.3f} s  {share:5.0%} of a step  {rate:10,.0f} tokens/s")
    print(
        f"  update / scoring = {update_s / scoring_s:.1f} (two forwards and a backward: 4 is ideal)"
    )


def batching(mesh_text: str) -> None:
    """Continuous against plain batching on the same requests, with long-tailed reply lengths."""
    cfg = RUNS["tiny"]()
    mesh = sharding.make_mesh(mesh_text)
    weights = load_weights(EMBEDDED, cfg.model)
    eos = VOCABULARY.index("<eos>")
    task = make_task(cfg)
    # A quarter of the prompts ask for a search (up to 170 tokens), the others for a guess (24): the
    # lengths of a policy that has begun to reflect.
    rng = np.random.default_rng(0)
    requests = []
    for i in range(512):
        problem = task.train[int(rng.integers(len(task.train)))]
        words = problem.prompt.removeprefix("use ")
        first = "puzzle" if rng.random() < 0.25 else "use"
        prompt = task.tokenizer.encode(f"{first} {words} <think>")
        requests.append(Request(prompt, i, 0))
    results = {}
    for name, refill in (("plain", 128), ("continuous", cfg.sampling.refill)):
        sampling = dataclasses.replace(cfg.sampling, slots=128, refill=refill)
        engine = Engine(cfg.model, sampling, mesh, [eos])
        generate = functools.partial(engine.generate, weights, requests, jax.random.key(0))
        completions, stats = generate()
        results[name] = seconds(generate, 3), stats, completions
    lengths = np.array([len(c.tokens) for c in results["plain"][2]])
    print(
        f"batching, mesh {mesh_text}: {len(requests)} replies of {np.median(lengths):.0f} tokens "
        f"(median), {np.percentile(lengths, 90):.0f} (90%), {lengths.max()} (longest), 128 slots"
    )
    for name, (took, stats, _) in results.items():
        print(
            f"  {name:10} {took:6.3f} s  {stats.decode_steps:5} decode steps  slot utilisation "
            f"{stats.utilization:.0%}  {lengths.sum() / took:8,.0f} tokens/s"
        )
    plain, continuous = results["plain"], results["continuous"]
    same = all(
        np.array_equal(a.tokens, b.tokens) for a, b in zip(plain[2], continuous[2], strict=True)
    )
    print(
        f"  continuous / plain: {plain[0] / continuous[0]:.2f}x as fast, "
        f"{continuous[1].utilization / plain[1].utilization:.2f}x the utilisation; "
        f"replies {'identical' if same else 'DIFFER'}"
    )


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8


def main(args: list[str]) -> None:
    mesh = cli.parse(BenchConfig, BenchConfig(), args, __doc__ or "").mesh
    step_split(mesh)
    batching(mesh)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        from experiments.bench import transformers

        transformers.compare(transformers.Sizes())
    else:
        print("Transformers: not installed; pip install -e '.[parity]' to compare with it")


if __name__ == "__main__":
    cli.run(main)
