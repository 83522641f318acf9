"""Learning curve: the error against the number of training images, and its extrapolation."""
