"""The log of a run: metrics, TensorBoard events, terminal output, timing, experiment trackers."""
