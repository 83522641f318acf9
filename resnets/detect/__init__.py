"""Detection, localization and segmentation with a classification network as backbone."""
