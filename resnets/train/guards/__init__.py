"""Ending a run that was interrupted, diverged or hangs."""
