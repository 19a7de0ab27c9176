"""Where this folder is on PYTHONPATH, a run waits in step R1JAX_TEST_HOLD of a SLURM job's first
start (of an array: of task R1JAX_TEST_HOLD_TASK) until a signal comes, so that what a test does to
it finds it there, however fast the machine is."""

import os
import sys
import time

step = os.environ.get("R1JAX_TEST_HOLD")
task = os.environ.get("R1JAX_TEST_HOLD_TASK")
first = os.environ.get("SLURM_RESTART_COUNT", "0") == "0"
if step and first and task == os.environ.get("SLURM_ARRAY_TASK_ID") and "-m" in sys.orig_argv:
    from r1jax.run import Run

    steps = Run.steps

    def held(self, *given):
        for at in steps(self, *given):
            while at == int(step) and self._signal is None:
                time.sleep(0.02)
            yield at

    Run.steps = held
