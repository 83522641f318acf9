"""Where a folder keeps its splits and classes."""
