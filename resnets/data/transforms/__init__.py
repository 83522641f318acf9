"""Augmentation and preprocessing of images."""
