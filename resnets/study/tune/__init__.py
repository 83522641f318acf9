"""Search of a recipe's learning rate, weight decay and augmentation on validation images."""
