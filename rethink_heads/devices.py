"""Which device to compute on."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from rethink_heads.distributed import local_rank
from rethink_heads.errors import UserError


def resolve_device(name: str = "auto") -> torch.device:
    """The device for ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Processes that torchrun started take the GPUs of their machine in turn, unless one is named.

    Raises:
        UserError: if the name is none of these or this machine has no such device.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return _own_gpu() if available else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (
        not available or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UserError(f"this machine has no device {name!r}: give cpu or auto")
    return _own_gpu() if device.type == "cuda" and device.index is None else device


def whole_float32() -> AbstractContextManager[None]:
    """Within it a GPU's convolutions in float32 keep all bits, as its matrix products do.

    torch lets convolutions use TF32 unless told otherwise, which has ten bits of mantissa.
    """
    now = torch.backends.cudnn
    return now.flags(
        enabled=now.enabled,
        benchmark=now.benchmark,
        deterministic=now.deterministic,
        allow_tf32=False,
    )


def _own_gpu() -> torch.device:
    """The current GPU; under torchrun one for each process, shared only where there are fewer."""
    rank = local_rank()
    return torch.device("cuda" if rank is None else f"cuda:{rank % torch.cuda.device_count()}")
