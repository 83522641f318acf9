"""Errors, files, processes, hardware and terminal output."""
