"""Detection, localization and segmentation metrics, and the files they are written to."""
