"""The sections of benchmarks/gpu.py, one per file; each makes `Case`s from a `Setting`."""
