"""Grids of training runs: networks by seeds, in worker processes, resumable."""
