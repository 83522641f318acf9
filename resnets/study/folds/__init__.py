"""Cross-validation: k networks, a prediction of every image by one that has not seen it."""
