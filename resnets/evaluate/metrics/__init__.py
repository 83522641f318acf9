"""Metrics of classifiers: one label per image (multiclass), or several (multilabel)."""
