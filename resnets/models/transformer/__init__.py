"""A transformer of characters, and its forms of residual connections."""
