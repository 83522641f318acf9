"""Metrics of classifiers: one label per image (multiclass), or any set of labels (multilabel)."""
