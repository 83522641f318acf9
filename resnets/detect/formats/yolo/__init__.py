"""The YOLO text format: data.yaml, images/ and labels/."""
