"""Sets in binary files of their own format: CIFAR, IDX (MNIST), STL-10."""
