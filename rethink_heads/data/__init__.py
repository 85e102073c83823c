"""Detection data: COCO-format folders and the generated set ``shapes``.

Import from the modules: :mod:`~rethink_heads.data.sample`, :mod:`~rethink_heads.data.coco`,
:mod:`~rethink_heads.data.shapes` and :mod:`~rethink_heads.data.sources`.
"""
