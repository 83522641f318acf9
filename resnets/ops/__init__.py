"""Native kernels and their Python wrappers."""
