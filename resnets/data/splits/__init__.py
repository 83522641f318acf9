"""Training, validation and test split: assignment, overlap and the record a run keeps."""
