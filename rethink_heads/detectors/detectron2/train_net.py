"""Train our heads with detectron2: its ``DefaultTrainer``, its launcher, its configurations.

    python -m rethink_heads.detectors.detectron2.train_net --config-file double_head_R_50_FPN --num-gpus 8 \\
        --train-annotations instances_train.json --train-images train/ [--resume] [KEY VALUE ...]

The configuration is a file of one's own or one of the package's, by name; the data are COCO's JSON and a folder of
images, or whatever ``DATASETS.TRAIN`` and ``DATASETS.TEST`` name that detectron2 has registered. Everything else is as
in detectron2's own ``tools/train_net.py``: ``OUTPUT_DIR`` receives ``config.yaml``, the checkpoints, of which
``model_final.pth`` is the last, ``metrics.json`` and a log. With ``--eval-only`` nothing is trained, and the weights of
``MODEL.WEIGHTS`` are evaluated on ``DATASETS.TEST``.

detectron2 reads weights itself: a ``.pkl`` is unpickled, so let ``MODEL.WEIGHTS`` be one only from a source you trust.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rethink_heads.detectors.detectron2.config import (
    add_rethink_heads_config,
    config_file,
    config_names,
    require_detectron2,
)
from rethink_heads.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

ROLES = ("train", "test")
USER_ERROR_CODE = 2


def argument_parser() -> ArgumentParser:
    """detectron2's arguments, and the data's."""
    from detectron2.engine import default_argument_parser

    parser: ArgumentParser = default_argument_parser(
        f"Configurations of the package, for --config-file: {', '.join(config_names())}"
    )
    for role in ROLES:
        parser.add_argument(
            f"--{role}-annotations",
            type=Path,
            metavar="FILE",
            help=f"COCO's JSON to {role} on, in place of DATASETS.{role.upper()}",
        )
        parser.add_argument(
            f"--{role}-images", type=Path, metavar="DIR", help="the folder of its images"
        )
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> Namespace:
    """The arguments, with the configuration as a path.
    Raises UserError where no configuration is given, or there is none of that name.
    """
    args = argument_parser().parse_args(argv)
    if not args.config_file:
        raise UserError(f"no --config-file: give a file, or one of {', '.join(config_names())}")
    args.config_file = str(config_file(args.config_file))
    return args


def build_config(args: Namespace) -> CfgNode:
    """The configuration of the arguments: file, then data, then ``KEY VALUE`` pairs. Registers the data.

    Where annotations are given, ``MODEL.ROI_HEADS.NUM_CLASSES`` and the class names are theirs.
    Raises UserError for no such file, an unknown key, a bad value, or data that cannot be read.
    """
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_rethink_heads_config(cfg)
    # A configuration may be anybody's: none of its tags may run code.
    _merging(args.config_file, lambda: cfg.merge_from_file(args.config_file, allow_unsafe=False))
    _take_data(cfg, args)
    _merging("the command line", lambda: cfg.merge_from_list(args.opts))
    if cfg.MODEL.DEVICE.startswith("cuda") and not _gpus():
        cfg.MODEL.DEVICE = "cpu"
    names, classes = cfg.MODEL.RETHINK_HEADS.CLASS_NAMES, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if names and len(names) != classes:
        raise UserError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {classes}, but there are {len(names)} classes in the"
            " annotations: leave the number out"
        )
    cfg.freeze()
    return cfg


def _merging(source: str, merge: Callable[[], None]) -> None:
    """Merges into a configuration; yacs says what is wrong with a key or a value in three ways."""
    try:
        merge()
    except (KeyError, ValueError, AssertionError, OSError, yaml.YAMLError) as error:
        reason = str(error).strip("'\"").splitlines()[0] if str(error) else "it is not understood"
        raise UserError(
            f"bad configuration in {source}: {reason}; correct or leave it out"
        ) from error


def _take_data(cfg: CfgNode, args: Namespace) -> None:
    classes: dict[str, tuple[str, ...]] = {}
    for role in ROLES:
        annotations, images = getattr(args, f"{role}_annotations"), getattr(args, f"{role}_images")
        if (annotations is None) != (images is None):
            raise UserError(f"--{role}-annotations and --{role}-images go together: give both")
        if annotations is None:
            continue
        cfg.DATASETS[role.upper()] = (register_annotations(role, annotations, images),)
        classes[role] = annotated_classes(annotations)
    if "train" in classes and "test" not in classes:
        # The file's own test data need not have these classes, nor be there.
        cfg.DATASETS.TEST = ()
    if not classes:
        return
    if len(set(classes.values())) > 1:
        raise UserError(
            "the classes of --train-annotations and --test-annotations differ: give files of the same categories"
        )
    names = next(iter(classes.values()))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(names)
    cfg.MODEL.RETHINK_HEADS.CLASS_NAMES = list(names)


def check_data(cfg: CfgNode, training: bool) -> None:
    """Raises a UserError where data that a configuration names are not registered or not there."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    roles = [("train", cfg.DATASETS.TRAIN)] if training else []
    for role, names in [*roles, ("test", cfg.DATASETS.TEST)]:
        ways = f"give --{role}-annotations and --{role}-images"
        if not names and (role == "train" or not training):
            raise UserError(f"no data to {role} on: {ways}")
        for name in names:
            if name not in DatasetCatalog.list():
                raise UserError(
                    f"detectron2 has no dataset {name} (DATASETS.{role.upper()}): {ways}"
                )
            path = MetadataCatalog.get(name).get("json_file")
            if path and not Path(path).is_file():
                raise UserError(
                    f"dataset {name} is not at {path}: {ways}, or set DETECTRON2_DATASETS to the folder that has it"
                )


def annotated_classes(annotations: Path) -> tuple[str, ...]:
    """The class names of COCO's JSON in the order of their category ids, which is detectron2's.
    Raises UserError where the file is missing or has no categories.
    """
    try:
        categories = json.loads(Path(annotations).read_bytes())["categories"]
        names = {int(each["id"]): str(each["name"]) for each in categories}
    except FileNotFoundError as error:
        raise UserError(f"no annotations at {annotations}: give COCO's JSON") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{annotations} is not COCO's JSON with categories: give one") from error
    if not names:
        raise UserError(f"{annotations} has no categories: give a file with some")
    return tuple(names[number] for number in sorted(names))


def register_annotations(role: str, annotations: Path, images: Path) -> str:
    """Registers COCO's JSON and its folder of images with detectron2, once, and returns the dataset's name.
    Raises UserError where one of them is not there, or the JSON has no categories.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    annotations, images = Path(annotations).absolute(), Path(images).absolute()
    classes = annotated_classes(annotations)
    if not images.is_dir():
        raise UserError(f"no folder of images at {images}: give the annotations' images")
    # The same in every process, and other files have another name.
    digest = hashlib.sha256(f"{annotations}\n{images}".encode()).hexdigest()[:8]
    name = f"rethink_heads_{role}_{digest}"
    if name not in DatasetCatalog.list():
        register_coco_instances(name, {}, str(annotations), str(images))
        MetadataCatalog.get(name).thing_classes = list(classes)
    return name


@functools.cache
def trainer() -> Any:
    """detectron2's ``DefaultTrainer`` that evaluates COCO's AP on ``DATASETS.TEST``."""
    from detectron2.engine import DefaultTrainer
    from detectron2.evaluation import COCOEvaluator

    class Trainer(DefaultTrainer):
        @classmethod
        def build_evaluator(
            cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
        ) -> Any:
            """AP of a registered dataset; detections are left in ``OUTPUT_DIR``/inference."""
            folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
            return COCOEvaluator(dataset_name, output_dir=folder)

    return Trainer


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


def main(args: Namespace) -> Any:
    """Trains or evaluates in one process; detectron2's launcher calls it in each.

    Returns:
        detectron2's results of the evaluation, if there is one.
    """
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import default_setup

    cfg = build_config(args)
    default_setup(cfg, args)
    if args.eval_only:
        model = trainer().build_model(cfg)
        checkpointer = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return trainer().test(cfg, model)
    training = trainer()(cfg)
    training.resume_or_load(resume=args.resume)
    return training.train()


def invoke(argv: Sequence[str] | None = None) -> None:
    """The command. Raises UserError where detectron2 is not installed, or the arguments are wrong."""
    require_detectron2()
    from detectron2.engine import launch

    args = parse_arguments(argv)
    if args.num_gpus > max(_gpus(), 1):
        raise UserError(f"--num-gpus {args.num_gpus}, but this machine has {_gpus()}: give no more")
    # Mistakes show here, in one process, before the others are started.
    cfg = build_config(args)
    check_data(cfg, training=not args.eval_only)
    if cfg.MODEL.DEVICE == "cpu":
        print("training on the CPU (MODEL.DEVICE cpu)", file=sys.stderr)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    try:
        invoke()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_CODE)
