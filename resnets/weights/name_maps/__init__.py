"""Name maps between our tensors and those of other libraries."""
