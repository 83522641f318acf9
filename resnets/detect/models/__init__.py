"""Detectors, localizers and segmenters on the stages of a network."""
