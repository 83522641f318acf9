"""VOC XML annotations and their image lists."""
