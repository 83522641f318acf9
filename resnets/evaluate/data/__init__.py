"""What a classifier is evaluated on: split, classes matched with the model's, ground truth."""
