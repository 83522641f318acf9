"""`resnets data check` for classification data sets."""
