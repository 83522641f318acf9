"""`resnets data check` for annotated data sets, and its repair."""
