"""timm's models by name, for ``model.backbone: timm:NAME``. timm is imported where such a name is looked up."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from rethink_heads.errors import UserError, shorten

PREFIX = "timm:"
Triple = tuple[float, float, float]


def timm_name(backbone: str) -> str | None:
    """timm's name of a backbone; None of one that is not timm's."""
    return backbone.removeprefix(PREFIX) if backbone.startswith(PREFIX) else None


def require_timm() -> Any:
    """Import timm. Raises UserError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"model.backbone={PREFIX}NAME needs the package timm ({error}): pip install 'rethink-heads[timm]'"
        ) from error
    return timm


def model_config(name: str) -> Any:
    """timm's configuration of a model: the mean and deviation of its images, the name of its classifier. ``name``: with
    or without the tag of its weights: ``resnet50``, ``resnet50.a1_in1k``.
    Raises UserError where timm is not installed, or has no such model or tag; the sentence names near ones.
    """
    timm = require_timm()
    architecture, _, tag = name.partition(".")
    renamed = timm.models.get_deprecated_models()
    if architecture in renamed or not timm.is_model(architecture):
        names = timm.list_models()
        # Of resnet50 too where it is written timm/ResNet50.a1_in1k.
        wanted = name.rpartition("/")[2].partition(".")[0].lower()
        near = [now] if (now := renamed.get(architecture)) else []
        # Of vit_tiny those that begin so are meant: there are five, none of which is near by its letters.
        near = near or [name for name in names if wanted and name.startswith(wanted)][:3]
        near = near or difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them"
        raise UserError(f"timm has no model {shorten(architecture or name)!r}; {meant}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
        there = ", ".join(difflib.get_close_matches(tag, tags, n=5, cutoff=0.0)) or "none"
        raise UserError(
            f"timm has no weights {shorten(tag)!r} of {architecture}; there are {there}"
        ) from error


@functools.cache
def normalisation(name: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation of RGB values in [0, 1] that a model's images are normalised with.
    Raises UserError as :func:`model_config`.
    """
    config = model_config(name)
    return tuple(map(float, config.mean)), tuple(map(float, config.std))  # type: ignore[return-value]
