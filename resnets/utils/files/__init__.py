"""Writing and reading files: atomic writes, locks, CSV, JSON, NumPy and YAML."""
