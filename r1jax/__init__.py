"""DeepSeek-R1, end to end, in JAX."""
