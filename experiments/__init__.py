"""Recipes. Each is a docstring with its command, a complete configuration and a few lines."""

import os
import signal
import sys


def leave(*_) -> None:
    """At Ctrl-C while a command is imported, which takes seconds: there is nothing to end."""
    os.write(2, b"stopped by Ctrl-C\n")
    os._exit(130)


if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)  # until `cli.run`

# XLA's partitioner warns of layouts that toy shapes on emulated meshes cannot avoid, over the one
# live line of a run. Set this to 0 to see its warnings; it has to be set before JAX is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
