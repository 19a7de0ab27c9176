"""Eight emulated devices and strict promotion for every test; where the real inputs are."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # of the programs that tests start, too

import jax
import pytest

# What is compiled here runs for milliseconds: most of the machine code optimiser's time is saved,
# and, where XLA has that flag (an unknown one ends the process), that of its newer code generator.
FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Minutes each, so they begin first: at the end one process would wait for the other's.
LONG = ("test_several_processes.py", "test_grpo.py", "test_meshes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """What a module compiled is of little use to the next, and every program takes some of the
    65,530 memory maps that Linux gives a process: at the last one XLA crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real inputs (R1JAX_DATA); skips the test where they are absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("R1JAX_DATA", default))
    if not path.is_dir():
        pytest.skip(f"real inputs absent: no directory {path} (set R1JAX_DATA)")
    return path
