"""Training steps as CUDA graphs: the host launches one graph instead of thousands of kernels."""
