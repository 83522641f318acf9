"""Files of a data set: folder walking, archives and safe unpickling."""
