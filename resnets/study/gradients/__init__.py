"""Gradient norms by layer."""
