"""Layout of folders of images: splits, classes and masks."""
