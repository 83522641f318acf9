"""The sections of benchmarks/gpu.py, one a file; each makes `Case`s from a `Setting`."""
