"""Detection, localisation and segmentation on the named stages of a net."""
