"""Detection data: COCO's and PASCAL VOC's folders, and the generated set ``shapes``."""
