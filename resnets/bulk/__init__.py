"""Bulk prediction: data sets of any size to shards of predictions, resumable after a crash."""
