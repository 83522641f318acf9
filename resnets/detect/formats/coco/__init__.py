"""COCO JSON annotations."""
