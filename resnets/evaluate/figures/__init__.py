"""Figures of an evaluation: confusion matrix, reliability diagram, Grad-CAM, errors."""
