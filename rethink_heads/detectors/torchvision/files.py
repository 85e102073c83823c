"""Files of weights of torchvision's detectors: what is in them, and whether torchvision published them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import WeightsEnum

from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.errors import UserError
from rethink_heads.files import sha256

CLASS_WEIGHT = "roi_heads.box_predictor.cls_score.weight"


def published_file(published: type[WeightsEnum], path: Path) -> WeightsEnum | None:
    """The published weights that a file is, whatever it is called: their names end in its hash."""
    digest = sha256(path)
    for member in published:
        said = re.search(r"-([0-9a-f]{8,})$", Path(member.url).stem)
        if said and digest.startswith(said[1]):
            return member
    return None


def read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """A file's weights by the builder's names, without whatever wraps them, and class names that it says."""
    # What torchvision's own training script puts beside the weights; it holds plain values.
    # Leaving takes away what was added, which whoever imports this may have added before.
    known = torch.serialization.get_safe_globals()
    added: list[Any] = [] if argparse.Namespace in known else [argparse.Namespace]
    with torch.serialization.safe_globals(added):
        checkpoint = read_checkpoint(path)
    state, names = checkpoint.state, checkpoint.class_names
    found = [key for key in state if key.endswith(CLASS_WEIGHT)]
    if not found:
        raise UserError(
            f"{path} has no {CLASS_WEIGHT}, so its weights are not those of a two-stage detector of torchvision: give"
            " a state dict of the whole model"
        )
    # A training framework's module may hold the model under a name of its own.
    prefix = min(found, key=len).removesuffix(CLASS_WEIGHT)
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, names
