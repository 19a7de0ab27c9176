import pytest

from r1jax.checks import InputError
from r1jax.rewards.sandbox import Limits, Sandbox


@pytest.fixture(scope="session")
def isolation() -> None:
    """Skips the test, with the reason, where the host cannot isolate programs."""
    try:
        Sandbox(Limits()).close()
    except InputError as refusal:
        pytest.skip(str(refusal))
