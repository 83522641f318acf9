"""Optimizers, schedules, averaging and what is frozen."""
