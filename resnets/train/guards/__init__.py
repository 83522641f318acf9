"""What stops a run: an interrupt, divergence, a hang, and batch norms of a single value."""
