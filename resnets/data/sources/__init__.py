"""Data set formats: class folders, archives, CSV, Parquet, WebDataset, IDX, CIFAR, the Hub."""
