"""Detectors from detectron2's configuration files and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from rethink_heads.detectors.answers import first_line
from rethink_heads.detectors.checkpoints.layouts import known_class_names, names_for
from rethink_heads.detectors.checkpoints.reading import (
    load_weights,
    read_checkpoint,
    without_prefix,
)
from rethink_heads.detectors.classes import read_class_names
from rethink_heads.detectors.detectron2.config import COMPILING, require_detectron2
from rethink_heads.detectors.random_weights import spread_outputs
from rethink_heads.errors import UserError
from rethink_heads.settings import read_yaml

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.modeling import GeneralizedRCNN

    from rethink_heads.detectors.detectron2.adapter import Detectron2Detector

RANDOM = "random"
REMEDY = "give the configuration that it was trained with"
BACKBONE_ONLY = "ImageNetPretrained"
HEADS = "roi_heads."
SPREADS = {"cls_score": 2.0, "bbox_pred": 0.5, "objectness_logits": 2.0, "anchor_deltas": 0.3}
"""Standard deviation over boxes that random weights give the outputs of a layer of that name."""
NAMES_ORDER = "in the order of the category ids that it was trained with"
CLASSES_NAME = "class_names.txt"
"""Beside a configuration that ``rethink-heads export`` wrote: a line a class."""


def open_detectron2(
    config: str,
    weights: str | None = None,
    class_names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> Detectron2Detector:
    """The detector of a configuration file of detectron2 and of its weights.
    Raises UserError where detectron2 is missing; the configuration or the weights cannot be found, read or downloaded,
    or do not fit; the model is no two-stage detector; nothing says the class names.

    Args:
        config: path of a YAML file; or a name in detectron2's model zoo, as
            ``COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml``; or the name of one of this package's configurations.
        weights: path or URL of a ``.pth`` or ``.pkl`` file; None takes the configuration's ``MODEL.WEIGHTS``;
            ``random`` takes seeded random weights whose outputs differ from box to box, for trying things.
        class_names: the K foreground classes in the order of the scores; None takes those that the configuration
            names (``MODEL.RETHINK_HEADS.CLASS_NAMES``), those of ``class_names.txt`` beside it, which an export writes,
            those of its data set as detectron2 knows it, or COCO's 80.
    """
    require_detectron2()
    from rethink_heads.detectors.detectron2.adapter import Detectron2Detector

    cfg = read_config(config)
    names = _class_names(cfg, class_names, Path(config).parent / CLASSES_NAME)
    # Found before the model is built, which takes a while.
    path = None if weights == RANDOM else _weights_file(cfg, config, weights)
    model = _built(cfg, config)
    if path is not None:
        _load(model, path)
    test = cfg.INPUT
    detector = Detectron2Detector(model, names, test.MIN_SIZE_TEST, test.MAX_SIZE_TEST, test.FORMAT)
    if path is None:
        # On the CPU, so that the weights are the same on every device.
        spreads = {
            name: SPREADS[last]
            for name, _ in model.named_modules()
            if (last := name.rpartition(".")[2]) in SPREADS
        }
        spread_outputs(detector, model, spreads)
    detector.model.to(device)
    return detector


def from_module(
    model: GeneralizedRCNN, class_names: Sequence[str] | None = None
) -> Detectron2Detector:
    """A live model of detectron2, given images as its configurations do by default: 800 to 1333 pixels a side.

    For other sizes make a :class:`~rethink_heads.detectors.detectron2.adapter.Detectron2Detector` yourself.
    Raises UserError as ``Detectron2Detector``, or where nothing says the class names.

    Args:
        model: on its device; it is put into evaluation mode.
        class_names: the K foreground classes in the order of the scores; None takes COCO's 80 or VOC's 20 names where
            there are as many.
    """
    require_detectron2()
    from rethink_heads.detectors.detectron2.adapter import Detectron2Detector, classes_of

    count = classes_of(model)
    if class_names is None:
        class_names = names_for(count, [known_class_names(count) or ()], NAMES_ORDER)
    return Detectron2Detector(model, class_names)


def read_config(config: str) -> CfgNode:
    """The configuration of a file or a name, as :func:`open_detectron2` takes it, with our node.
    Raises UserError where there is none, or it cannot be read.
    """
    import yaml
    from detectron2.config import get_cfg

    from rethink_heads.detectors.detectron2.config import add_rethink_heads_config

    path = _config_file(config)
    cfg = get_cfg()
    add_rethink_heads_config(cfg)
    try:
        # A configuration may be anybody's: it is read within limits first, and none of its tags may run code.
        read_yaml(path, "configuration")
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except yaml.constructor.ConstructorError as error:
        raise UserError(
            f"{path}, or one that it is based on, has YAML tags that run code ({error.problem}): replace them by the"
            " values that they give (detectron2's RetinaNet has them, but that is no two-stage detector)"
        ) from error
    except KeyError as error:
        raise UserError(
            f"{path} has a setting that detectron2 does not know ({first_line(error)}): take it out, or open a model of"
            " a project with settings of its own in Python and give it as --model python:MODULE:FUNCTION"
        ) from error
    except (
        Exception
    ) as error:  # A file that is no configuration can make the reader raise anything.
        raise UserError(
            f"{path} is no configuration of detectron2 ({first_line(error)}): give the YAML file that a model was"
            " trained with, such as config.yaml of its output folder"
        ) from error
    return cfg


def _config_file(config: str) -> Path:
    import detectron2

    from rethink_heads.detectors.detectron2.config import config_file

    if Path(config).suffix == ".py":
        raise UserError(
            f"{config} is Python code, which is not run: give a YAML configuration, or open the model in Python and"
            " give it as --model python:MODULE:FUNCTION"
        )
    package = Path(detectron2.__file__).parent
    # An installed package brings the model zoo's configurations along; a checkout has them beside it.
    zoos = (package / "model_zoo" / "configs", package.parent / "configs")
    for folder in (Path(), *zoos):
        if (folder / config).is_file():
            return folder / config
    try:
        return config_file(config)
    except UserError as error:
        raise UserError(
            f"{error}, or one of detectron2's model zoo, as COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
        ) from error


def _class_names(cfg: CfgNode, given: Sequence[str] | None, beside: Path) -> tuple[str, ...]:
    from detectron2.data import MetadataCatalog

    if given is not None:
        return tuple(given)
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    data_sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    # get() would add a data set of that name that nobody has registered.
    known = [MetadataCatalog.get(name) for name in data_sets if name in MetadataCatalog.list()]
    candidates = [cfg.MODEL.RETHINK_HEADS.CLASS_NAMES]
    if beside.is_file():
        candidates.append(read_class_names(beside))
    candidates += [metadata.get("thing_classes", ()) for metadata in known]
    candidates += [known_class_names(count) or ()]
    return names_for(count, candidates, NAMES_ORDER)


def _weights_file(cfg: CfgNode, config: str, weights: str | None) -> Path:
    """The local file of the weights, downloaded where they are a URL."""
    from detectron2.utils.file_io import PathManager

    source = weights or cfg.MODEL.WEIGHTS
    if not source or (weights is None and BACKBONE_ONLY in source):
        what = "names the weights of a backbone only" if source else "names no weights"
        raise UserError(
            f"{config} {what}: give --weights FILE, such as model_final.pth of a training's output folder, or"
            " --weights random to try things"
        )
    if "://" not in source:
        beside = Path(config).parent / source
        # As in the configuration's own training, from where it was started; or else beside it.
        return beside if weights is None and not Path(source).is_file() else Path(source)
    try:
        return Path(PathManager.get_local_path(source))
    except Exception as error:  # Whatever stands between here and there has errors of its own.
        raise UserError(
            f"{source} cannot be downloaded ({first_line(error)}): check the network, or download the file elsewhere"
            " and give its path as --weights"
        ) from error


def _built(cfg: CfgNode, config: str) -> nn.Module:
    """The untrained model of a configuration, on the CPU; the same each time, and no random state is moved."""
    from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_model

    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    kind = cfg.MODEL.META_ARCHITECTURE
    if kind in META_ARCH_REGISTRY and not issubclass(META_ARCH_REGISTRY.get(kind), GeneralizedRCNN):
        raise UserError(
            f"{config} describes a {kind}, which is no two-stage detector: give the configuration of a"
            " GeneralizedRCNN"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model: nn.Module = build_model(cfg)
        except UserError:
            raise
        except ImportError as error:
            raise UserError(
                f"the model of {config} has layers that are part of a compiled detectron2 only, and this one is not:"
                f" {COMPILING}"
            ) from error
        except (
            Exception
        ) as error:  # detectron2 asserts, looks up and divides where settings do not fit.
            raise UserError(
                f"detectron2 cannot build the model of {config} ({first_line(error)}): a part that your own code"
                " registers is known only when that is imported, so open such a model in Python and give it as"
                " --model python:MODULE:FUNCTION"
            ) from error
    return model


def _load(model: nn.Module, path: Path) -> None:
    state = without_prefix(read_checkpoint(path).state, HEADS)
    if not any(name.startswith(HEADS) for name in state):
        raise UserError(
            f"{path} has no weights of RoI heads, so it is a backbone's or of another framework: give the weights of"
            " a trained detector, such as model_final.pth of detectron2"
        )
    load_weights(model, state, path, "its model", REMEDY, _is_no_weight)


def _is_no_weight(name: str) -> bool:
    """Whether old files hold a value of that name that models now take from the configuration, or do not need."""
    last = name.rpartition(".")[2]
    return ".cell_anchors." in name or last in ("pixel_mean", "pixel_std", "num_batches_tracked")
