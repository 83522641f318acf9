"""Optimizers, learning rate schedules, weight averaging, loss scaling and freezing."""
