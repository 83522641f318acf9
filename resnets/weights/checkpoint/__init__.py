"""Checkpoints of training runs: format, management and storage."""
