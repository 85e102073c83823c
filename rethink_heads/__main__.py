"""``python -m rethink_heads``, as torchrun needs it."""

from rethink_heads.cli import main

main()
