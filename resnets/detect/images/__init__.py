"""The image files of a set, and which of them each annotation belongs to."""
