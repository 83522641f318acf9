"""Tables of paths and labels: CSV, TSV and the ground-truth files of ImageNet."""
