"""DeepSeek-R1, end to end, in JAX."""

__version__ = "0.1.0"
