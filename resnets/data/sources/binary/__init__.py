"""Data sets in binary formats: CIFAR, IDX (MNIST), STL-10."""
