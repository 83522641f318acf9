"""A whole training step as one CUDA graph: nothing of a step comes from the host."""
