"""Tasks of a training run: classification, and detection with localization and segmentation."""
