"""Weights: checkpoints, name maps between libraries, and nets that start from them."""
