"""What a command says of what went wrong."""

import jax
import pytest

from experiments.errors import is_of_a_collective, one_line
from r1jax.checks import InputError

GLOO = "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:538] Read error"


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as found:
        return found


@pytest.mark.parametrize(
    ("error", "is_of_one"),
    [
        (jax.errors.JaxRuntimeError("INTERNAL: something"), True),
        (ValueError(GLOO), True),  # as JAX raises it where an array is read
        (raised(InputError("the checkpoint of step 2 cannot be read"), ValueError(GLOO)), True),
        (ExceptionGroup("saving", [OSError("no"), ValueError(GLOO)]), True),
        (ValueError("expected 3 values"), False),
        (InputError("--steps=0: INTERNAL: "), False),
    ],
)
def test_what_fails_because_another_process_is_gone(error, is_of_one):
    assert is_of_a_collective(error) == is_of_one


def test_what_is_a_bug_is_no_line():
    assert one_line(ValueError(GLOO)) is None and one_line(InputError("a\n b")) == "a b"
