"""The log of a run: metrics, events and the terminal; where time goes; experiment trackers."""
