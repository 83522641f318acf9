"""Images with labels, in memory or as files, and their identity."""
