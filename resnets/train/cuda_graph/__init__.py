"""A whole training step as one CUDA graph: no part of a step runs on the host."""
