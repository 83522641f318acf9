"""Image files of a data set, and their match to annotations."""
