"""Analyses of trained models, one module each, and their base (`base.Analysis`)."""
