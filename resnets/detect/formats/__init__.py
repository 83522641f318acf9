"""Annotation formats: COCO JSON, VOC XML, YOLO, labelme and CVAT."""
