"""Detection data: COCO-format folders, PASCAL VOC's and the generated set ``shapes``.

Import from the modules: :mod:`~rethink_heads.data.coco`, :mod:`~rethink_heads.data.coco`,
:mod:`~rethink_heads.data.shapes`, :mod:`~rethink_heads.data.voc` and :mod:`~rethink_heads.data.sources`.
"""
