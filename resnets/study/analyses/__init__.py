"""Analyses of trained models that are one module each."""
