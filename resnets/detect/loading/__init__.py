"""Opening annotated data sets, and their training batches."""
