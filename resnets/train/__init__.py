"""Training: the run, its loop, step and state, the tasks, losses, optimizers and the log."""
