"""Annotated images: stores, records, boxes, masks and class maps."""
