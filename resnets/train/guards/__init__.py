"""Reasons to stop a run: a signal, divergence, a hang, batch norms with a single value."""
