"""Errors, terminal output, lazy imports, functions of the API; files and the machine."""
