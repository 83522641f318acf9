"""A character-level transformer with a choice of residual connections."""
