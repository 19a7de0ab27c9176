"""Recipes. Each is a docstring with its command, a complete configuration and a few lines."""

import os

# XLA's partitioner warns of layouts that toy shapes on emulated meshes cannot avoid, over the one
# live line of a run. Set this to 0 to see its warnings; it has to be set before JAX is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
