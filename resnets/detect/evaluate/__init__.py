"""Evaluation of detectors, segmenters and localizers on a split, and the files it writes."""
