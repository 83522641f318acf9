"""Bulk prediction: a data set of any size in, shards of predictions out, resumable."""
