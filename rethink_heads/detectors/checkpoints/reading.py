"""Checkpoint files of any framework: the weights by name, and the class names where a file says them.

:func:`read_checkpoint` reads what ``torch.save`` wrote, and detectron2's pickles of NumPy arrays (:mod:`pickles`).
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rethink_heads.detectors.answers import check_loaded, first_names
from rethink_heads.detectors.checkpoints.pickles import ForbiddenObject, load_arrays
from rethink_heads.errors import UserError
from rethink_heads.files import cannot_read

logger = logging.getLogger(__name__)

WRAPPERS = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "ema",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
)
"""Keys that weights lie under, those that are taken first where there are several."""
NO_WEIGHTS = ("optim", "sched", "scaler", "callbacks", "loops")
"""Beginnings of keys under which other things than weights have names."""
MOST_WRAPPED = 3
LONGEST_MISFIT = 150
PICKLE_SUFFIX, SAFETENSORS = ".pkl", ".safetensors"
CHECKPOINT = "checkpoint of PyTorch"
ADVICE = (
    "by torch.save(torch.load(FILE, map_location='cpu', weights_only=False)['state_dict'], NEW_FILE), or the key that"
    " they are under; of a whole model take .state_dict()"
)
NUMBER_KINDS = "biuf"
PREFIXES = ("module.", "_orig_mod.")
"""What distributed training and ``torch.compile`` put before the names of weights."""
AVERAGED = "n_averaged"
"""The counter that ``AveragedModel`` keeps beside the weights."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state: weights by the file's names, without the prefix of distributed training.
        class_names: the classes that the file names, or None.
        extras: names of what lies beside the weights and is not read, such as an optimizer's state.
    """

    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    extras: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of weights: a mapping of names to tensors, alone or under a key of ``WRAPPERS`` or the only one.

    Nothing but tensors, arrays and plain values is read, so a file cannot run code; and no more memory is taken than
    the file has bytes. ``path`` is a file that ``torch.save`` wrote, safetensors, or, if it ends in .pkl, a pickle of
    NumPy arrays (detectron2's zoo).
    Raises UserError for no such file, one that holds other Python objects, or tensors that are not dense.
    """
    path = Path(path)
    if not path.is_file():
        is_folder = f"{path} is a folder: give a file in it"
        raise UserError(is_folder if path.is_dir() else f"no such file: {path}")
    try:
        with open(path, "rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise cannot_read(path, "file", error) from error
    # What is downloaded in place of weights.
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a pointer of Git LFS, not the weights: get them with git lfs pull"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not the weights: download the file itself")
    if path.suffix == SAFETENSORS:
        return _unwrap(_load_safetensors(path), path)
    # Under either name it may be the other's: torch.save writes an archive, which no pickle is.
    is_archive = zipfile.is_zipfile(path)
    if path.suffix == PICKLE_SUFFIX and not is_archive:
        return _unwrap(_load_arrays(path), path)
    if is_archive:
        _check_archive(path)
    return _unwrap(_load_tensors(path, is_archive), path)


def _check_archive(path: Path) -> None:
    """Raise UserError for an archive that ``torch.save`` did not write, or whose bytes have changed since.

    Its parts are not compressed, so that reading it takes no more than its size.
    """
    with _telling_damage(path, CHECKPOINT), zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.filename.endswith("/constants.pkl") for part in parts):
            raise UserError(
                f"{path} is an archive of TorchScript: write its weights alone:"
                " torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
            )
        size = sum(part.file_size for part in parts)
        is_stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
        if not is_stored or size > path.stat().st_size:
            raise UserError(f"{path} is compressed, and so no file that torch.save wrote")
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(
            f"{path} is damaged, since the check sum of {damaged} does not match: download or copy it again"
        )


def _load_tensors(path: Path, is_archive: bool) -> Any:
    with _telling_damage(path, CHECKPOINT):
        try:
            # Mapped, an archive's tensors cannot reach beyond what it holds of them.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
        except pickle.UnpicklingError as error:
            refused = re.search(r"GLOBAL ([\w.]+\w)", str(error))
            if refused is None and not is_archive:
                raise
            what = f" ({refused[1]})" if refused else ""
            raise UserError(
                f"{path} holds more than weights and plain values, which only code that comes with the file could"
                f" read{what}; where you trust it, write its weights alone, {ADVICE}"
            ) from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{path} needs the package safetensors: pip install 'rethink-heads[safetensors]'"
        ) from error
    with _telling_damage(path, "safetensors file"):
        # Its header is checked against the file's size.
        return load_file(path)


def _load_arrays(path: Path) -> Any:
    with _telling_damage(path, "pickle of NumPy arrays"):
        try:
            return load_arrays(path)
        except ForbiddenObject as error:
            raise UserError(
                f"{path} holds more than NumPy arrays and plain values, which only code that comes with the file could"
                f" read ({error}); where you trust it, write its weights alone:"
                " torch.save(pickle.load(open(FILE, 'rb'))['model'], NEW_FILE)"
            ) from error


@contextlib.contextmanager
def _telling_damage(path: Path, kind: str) -> Iterator[None]:
    """Turn what bytes that are no file of that kind make its reader raise, which may be anything, into a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged or no {kind}: download it again") from error


def _unwrap(content: Any, path: Path) -> Checkpoint:
    wrapper = _wrapper(content, path)
    weights = content
    for key in wrapper:
        weights = weights[key]
    tensors = _plain_names(_tensors(weights))
    size = path.stat().st_size
    for name, value in tensors.items():
        _check_dense(name, value, size, path)
    meta = content.get("meta") if wrapper else None
    beside = (str(name) for name in content if name not in (*wrapper[:1], "meta"))
    extras = tuple(beside) if wrapper else ()
    return Checkpoint(tensors, _class_names(meta), extras)


def _wrapper(content: Any, path: Path) -> tuple[str, ...]:
    """The keys, one within the other, that the weights are under; none where they are the content itself."""
    found = dict(_places(content, ()))
    if not found:
        keys = list(map(str, content)) if isinstance(content, Mapping) else []
        has = f"its keys are {first_names(keys)}" if keys else f"it is a {type(content).__name__}"
        raise UserError(
            f"{path} holds no weights: expected tensors by name, alone or under a key such as 'model' or 'state_dict',"
            f" but {has}"
        )
    within = [place for place in found if place]
    known = [place for place in within if place[0] in WRAPPERS]
    first = min((place[0] for place in known), key=WRAPPERS.index, default=None)
    chosen = [place for place in known if place[0] == first] if known else within
    # Without a known key, the most tensors by name are the weights: a loss may lie beside them.
    if not known and found.get((), 0) >= max((found[place] for place in within), default=0):
        return ()
    if len(chosen) > 1:
        places = first_names([".".join(place) for place in chosen])
        raise UserError(
            f"{path} holds weights under several keys ({places}): write those that are meant alone:"
            " torch.save(torch.load(FILE)[KEY], NEW_FILE)"
        )
    others = [".".join(place) for place in known if place[0] != first]
    if others:
        logger.warning(
            "%s holds weights under %s and %s: those of %s are read",
            path,
            first,
            first_names(others),
            first,
        )
    return chosen[0]


def _places(content: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Where tensors by name are, and how many, in mappings at most ``MOST_WRAPPED`` deep; not those of optimizers."""
    if not isinstance(content, Mapping):
        return
    if count := len(_tensors(content)):
        yield above, count
    if len(above) == MOST_WRAPPED or (above and count):
        return
    for key, value in content.items():
        if isinstance(key, str) and not key.lower().startswith(NO_WEIGHTS):
            yield from _places(value, (*above, key))


def _plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what distributed training, averaging and ``torch.compile`` put before names, or between their parts."""
    names = [name for name in tensors if name != AVERAGED]
    # Each may be within the other.
    for prefix in 2 * PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k != AVERAGED}
            names = list(tensors)
    return {name.replace("._orig_mod.", "."): value for name, value in tensors.items()}


def without_prefix(state: Mapping[str, Tensor], mark: str) -> dict[str, Tensor]:
    """The weights of a model that a training framework's module held under a name, by the model's own names.

    ``mark`` is in a name of the model; what comes before it in the shortest is left out, and so are other weights.
    """
    prefixes = {name.partition(mark)[0] for name in state if mark in name}
    prefix = min(prefixes, key=len, default="")
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    name: str,
    remedy: str,
    is_optional: Callable[[str], bool] = lambda _: False,
) -> None:
    """Load a file's weights into a model, all of it.
    Raises UserError where types, sizes or names do not fit, or a weight is not finite.

    Args:
        state: by the model's names.
        is_optional: whether a file may have something of that name that the model lacks.
    """

    def check(what: str, names: Sequence[str]) -> None:
        if names:
            raise UserError(f"{path} {what}: {first_names(names, LONGEST_MISFIT)}; {remedy}")

    own = model.state_dict()
    pairs = [(key, value, own[key]) for key, value in state.items() if key in own]
    check(
        "has weights that are no floating-point numbers",
        [
            f"{key} of {value.dtype}"
            for key, value, ours in pairs
            if ours.is_floating_point() and not value.is_floating_point()
        ],
    )
    check(
        f"has weights of other sizes than {name}",
        [
            f"{key} {'x'.join(map(str, value.shape))} instead of {'x'.join(map(str, ours.shape))}"
            for key, value, ours in pairs
            if value.shape != ours.shape
        ],
    )
    # Not strict, since detectron2's layers fill in what files of old releases lack.
    result = model.load_state_dict(state, strict=False)
    check(f"lacks weights of {name}", result.missing_keys)
    unexpected = [key for key in result.unexpected_keys if not is_optional(key)]
    check(f"has weights that {name} lacks", unexpected)
    check_loaded(model.state_dict().items(), str(path))


def _check_dense(name: str, value: Tensor, most_bytes: int, path: Path) -> None:
    """Raise UserError for a tensor that is no plain array of numbers, or of more than its file can hold."""
    kinds = {
        "without values (on the device meta)": value.is_meta,
        "quantized": value.is_quantized,
        "sparse or nested": value.layout is not torch.strided or value.is_nested,
        "complex": value.is_complex(),
    }
    wrong = [kind for kind, is_so in kinds.items() if is_so]
    if not wrong and value.numel() * value.element_size() > most_bytes:
        wrong = ["of more numbers than the file has"]
    if wrong:
        raise UserError(
            f"{path}: the tensor {name[:100]} is {wrong[0]}: give a state dict of plain floating-point tensors"
        )


def _tensors(weights: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors that have a name: in an optimizer's state, for one, they are numbered."""
    tensors = ((name, _tensor(value)) for name, value in weights.items() if isinstance(name, str))
    return {name: value for name, value in tensors if value is not None}


def _tensor(value: Any) -> Tensor | None:
    """A tensor, or an array or number of NumPy's as one; None for anything else."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in NUMBER_KINDS:
        return None
    # A copy: what a pickle holds may be the file's own bytes, in an order that PyTorch has not.
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))


def _class_names(meta: Any) -> tuple[str, ...] | None:
    """Class names of mmdetection's ``meta``: under ``CLASSES`` (2.x) or ``dataset_meta`` (3.x)."""
    if not isinstance(meta, Mapping):
        return None
    described = meta.get("dataset_meta")
    names = meta.get("CLASSES")
    if isinstance(described, Mapping):
        names = described.get("classes", described.get("CLASSES", names))
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
