"""Checks that stop a run: signals, divergence, hangs, batch norms with a single value."""
