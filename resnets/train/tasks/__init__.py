"""Tasks of a training run: classification, detection, localization, segmentation, sequences."""
