"""Reward models: what they learn from, what they are, how they are trained and used."""
