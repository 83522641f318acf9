"""Class maps for semantic segmentation, and the color schemes they are drawn in."""
