"""Our detectors on disk."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rethink_heads.config import Config
from rethink_heads.detectors.answers import check_loaded
from rethink_heads.detectors.rcnn.detector import RCNN, build_detector
from rethink_heads.errors import UserError
from rethink_heads.files import cannot_read, sha256, write_torch

logger = logging.getLogger(__name__)


def save_detector(detector: RCNN, config: Config, path: Path) -> None:
    """Writes weights, class names and configuration to one file, whole or not at all, and its SHA-256 beside it.

    The hash is in the form of ``sha256sum``, which can check it, too.
    """
    values = config.model_dump(mode="json")
    # What the backbone was really built with: its weights may not have been there to download.
    values["model"]["norm"] = detector.norm
    state = {name: value.detach().cpu() for name, value in detector.state_dict().items()}
    content = {"class_names": list(detector.class_names), "config": values}
    # Through JSON: a pickle says which equal strings are one object, which depends on where they were read.
    content = {"state": state, **json.loads(json.dumps(content))}
    write_torch(content, path, hash_path(path))


def hash_path(path: Path) -> Path:
    """Where the SHA-256 of one of our detector files is kept."""
    return path.with_suffix(".sha256")


def saved_config(path: Path) -> Config:
    """The settings in a file of :func:`save_detector`, whose errors are those of :func:`load_detector`."""
    with _reading(Path(path)):
        return Config.model_validate(_without_weights(path)["config"])


def saved_class_names(path: Path) -> tuple[str, ...]:
    """The class names in a file of :func:`save_detector`, whose errors are those of :func:`load_detector`."""
    with _reading(Path(path)):
        return tuple(map(str, _without_weights(path)["class_names"]))


def _without_weights(path: Path) -> Any:
    # Mapped, the weights stay on the disk.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def load_detector(path: Path, device: torch.device | str = "cpu") -> RCNN:
    """The detector of a file of :func:`save_detector`, in evaluation mode.

    Raises:
        UserError: if the file is missing, not one of ours, or not the one that was written, as a bit that has flipped
            makes it.
    """
    path = Path(path)
    with _reading(path):
        kept = hash_path(path)
        if not kept.is_file():
            logger.warning("there is no %s: damage to %s would go unnoticed", kept, path.name)
        elif kept.read_text(encoding="utf-8").split()[:1] != [sha256(path)]:
            raise UserError(
                f"{path} is damaged: its SHA-256 is not the one in {kept}; copy both again from where they come from,"
                " or delete the detector and train again"
            )
        content = torch.load(path, map_location="cpu", weights_only=True)
        config = Config.model_validate(content["config"])
        detector = build_detector(config, content["class_names"], pretrained=False)
        detector.load_state_dict(content["state"])
        check_loaded(detector.state_dict().items(), str(path))
    return detector.to(device).eval()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with one of our files into a sentence."""
    try:
        if not path.is_file():
            raise UserError(f"no detector at {path}: train it with `rethink-heads train` first")
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise cannot_read(Path(error.filename or path), "file", error) from error
    except Exception as error:  # Bytes that are no checkpoint can make the reader raise anything.
        raise UserError(
            f"{path} is damaged or no detector of this package: "
            "delete it and train again, or give another --run"
        ) from error


def same_weights(path: Path, detector: RCNN) -> bool:
    """Whether a file of :func:`save_detector` holds the weights of a detector, which is on the CPU."""
    kept, ours = load_detector(path).state_dict(), detector.state_dict()
    return kept.keys() == ours.keys() and all(torch.equal(kept[n], ours[n]) for n in ours)
