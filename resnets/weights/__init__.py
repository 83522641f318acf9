"""Weights: checkpoints, name maps between libraries, and models that start from them."""
