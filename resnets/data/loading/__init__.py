"""Batches for training and evaluation, and packed data sets."""
