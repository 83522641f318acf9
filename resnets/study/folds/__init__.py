"""Cross-validation: k networks, and out-of-sample predictions of all images."""
