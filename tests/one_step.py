"""One whole step of R1-Zero on a mesh, as plain values.

As a script, for meshes that need more devices than the process of the tests has:

    python one_step.py CONFIG MESH [MESH ...]

prints {mesh: values} as one line of JSON.
"""

import dataclasses
import json
import sys

import jax
import optax

from r1jax.base import load_weights
from r1jax.config import RunConfig
from r1jax.config_file import load_config
from r1jax.data.tasks import make_task
from r1jax.rl.grpo import grpo_step
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import Trainer, new_grader, new_policy
from r1jax.sharding import make_mesh


def one_step(cfg: RunConfig, mesh_text: str) -> dict:
    """Replies, rewards, metrics, Adam's first moments (so, gradients) and the update's HLO."""
    cfg, mesh = dataclasses.replace(cfg, mesh=mesh_text), make_mesh(mesh_text)
    with new_grader(cfg) as grader, jax.set_mesh(mesh):
        trainer = Trainer(cfg, make_task(cfg), mesh, grader)
        state = new_policy(cfg, load_weights(cfg.base, cfg.model), mesh)
        samples, _, _ = trainer.rollout(state.train.weights, 0, 0)
        args = state, trainer.to_devices(trainer.rollout_of(samples, 0)), hyper_of(cfg)
        compiled = grpo_step.lower(*args, **static_of(cfg)).compile()
        state, metrics = compiled(*args)
    moments = optax.tree_utils.tree_get(state.train.opt_state, "mu")
    return {
        "replies": [s.completion.tokens.tolist() for s in samples],
        "rewards": [s.grade.reward for s in samples],
        "metrics": {name: float(value) for name, value in metrics.items()},
        "moments": [leaf.tolist() for leaf in jax.tree.leaves(moments)],
        "hlo": compiled.as_text(),
    }


if __name__ == "__main__":
    config, *meshes = sys.argv[1:]
    make_mesh(meshes[0])  # before JAX starts, with as many devices as the first mesh needs
    cfg = load_config(RunConfig, config)
    print(json.dumps({mesh: one_step(cfg, mesh) for mesh in meshes}))
