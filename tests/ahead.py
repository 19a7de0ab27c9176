"""Programs that compile for devices that are not there: in a process of their own, because other
devices' compilers and the suite's emulated CPU devices want different process-wide settings."""

import os
import subprocess
import sys
from pathlib import Path


def said(program: str, *args, **environment: str) -> str:
    """What `program` prints, with `args` in sys.argv[1:]."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    own = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": paths,
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
