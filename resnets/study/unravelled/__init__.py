"""The unravelled view: residual networks as many paths of many lengths."""
