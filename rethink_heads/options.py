"""Options of the command line, each declared once; those that belong together are groups.

A group is a dataclass whose fields are options, declared by :func:`value`, :func:`flag` and :func:`argument`; what
several groups have in common is a type. A command takes a group as one parameter: :func:`grouped` gives the command
line its fields in its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from rethink_heads import bounds
from rethink_heads.bounds import HEADS, Bounds
from rethink_heads.errors import shorten
from rethink_heads.exit_handling import end_at_once


def words_of(*groups: Any) -> list[str]:
    """Options of some groups that were given, as words of a command line."""
    words: list[str] = []
    for name, value in (item for group in groups for item in vars(group).items()):
        if value is True:
            words.append(flag_of(name))
        elif value:
            values = value if isinstance(value, list) else [value]
            words += [word for each in values for word in (flag_of(name), str(each))]
    return words


def flag_of(name: str) -> str:
    """How the command line spells the option of a field: ``--box-format`` of ``box_format``."""
    return f"--{name.replace('_', '-')}"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Flatten the groups of options that a command takes into its signature."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            parameters += _options(hints[name])
        else:
            parameters.append(
                parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name])
            )

    def run(**values: Any) -> None:
        command(**{name: _filled(hints[name], name, values) for name in hints if name != "return"})

    run.__doc__ = command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _options(group: Any) -> Iterator[inspect.Parameter]:
    """The options of a group and of the groups in it."""
    hints = get_type_hints(group, include_extras=True)
    for each in fields(group):
        hint = hints[each.name]
        if is_dataclass(hint):
            yield from _options(hint)
            continue
        if each.metadata:
            hint = Annotated[hint, each.metadata["declare"](flag_of(each.name))]
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hint,
        )


def _filled(hint: Any, name: str, values: dict[str, Any]) -> Any:
    """The group with its options' values, or an option's value."""
    if not is_dataclass(hint):
        return values[name]
    group: Any = hint
    hints = get_type_hints(group, include_extras=True)
    return group(
        **{each.name: _filled(hints[each.name], each.name, values) for each in fields(group)}
    )


def within(allowed: Bounds) -> Callable[..., Any]:
    """Return an option's callback that refuses what is out of bounds, NaN too, before anything begins."""

    def check(option: typer.CallbackParam, value: Any) -> Any:
        for each in value if isinstance(value, list) else [value]:
            if each is not None and not allowed.low <= each <= allowed.high:
                end_at_once(
                    f"{option.opts[0]} {shorten(str(each))} is out of bounds: give {allowed}"
                )
        return value

    return check


def option(name: str, metavar: str, about: str, allowed: Bounds | None = None) -> Any:
    """An option without a default to show, that several groups share."""
    check = None if allowed is None else within(allowed)
    return typer.Option(name, metavar=metavar, help=about, callback=check, show_default=False)


def value(metavar: str, about: str, allowed: Bounds | None = None, default: Any = None) -> Any:
    """A group's field that is an option with a value."""
    check = None if allowed is None else within(allowed)
    settings: dict[str, Any] = {"metavar": metavar, "help": about, "callback": check}
    settings["show_default"] = default is not None
    return field(default=default, metadata={"declare": lambda flag: typer.Option(flag, **settings)})


def flag(about: str) -> Any:
    """A group's field that is an option without a value."""
    return field(default=False, metadata={"declare": lambda flag: typer.Option(flag, help=about)})


def argument(metavar: str, about: str, default: Any = MISSING) -> Any:
    """A group's field that is given without a name."""
    declare = typer.Argument(metavar=metavar, help=about, show_default=False)
    return field(default=default, metadata={"declare": lambda _: declare})


RunOption = Annotated[Path | None, option("--run", "DIR", "Run folder.")]
HeadsOption = Annotated[
    list[str] | None,
    option(
        "--head",
        "|".join(HEADS),
        "Head to look at; repeat it for several. Models may have others, such as conv-fc. Without it: all"
        " that the detector has.",
    ),
]
DataOption = Annotated[
    str | None,
    option(
        "--data",
        "FOLDER|shapes",
        "Folder in COCO layout (annotations/instances_<split>.json) or VOC layout (VOCdevkit), or the"
        " generated set.",
    ),
]
AnnotationsOption = Annotated[
    Path | None,
    option(
        "--annotations",
        "FILE|DIR",
        "Annotations: COCO's JSON, or a folder of VOC's XML files or of YOLO's labels; with --images.",
    ),
]
ImagesOption = Annotated[Path | None, option("--images", "DIR", "Folder of the images.")]
MaxImagesOption = Annotated[
    int | None, option("--max-images", "N", "First N images only.", bounds.IMAGES)
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")
]
SeedOption = Annotated[
    int | None, option("--seed", "N", "Seed of every random choice.", bounds.SEED)
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as JSON on standard output, all else on standard error."
    ),
]


@dataclass(frozen=True)
class ScreenOptions:
    """How results are printed."""

    as_json: JsonOption = False
    full: bool = flag("Print all tables, not only those that fit on a screen.")


OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings to change, for example training.max_iterations=100.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class DetectorOptions:
    """Which detectors are looked at. None at all means the demo's run."""

    run: list[Path] | None = value(
        "DIR",
        "Run folder; repeat it to compare detectors trained apart. Without it and --model:"
        " runs/demo, which is trained first if need be.",
    )
    model: list[str] | None = value(
        "[NAME=]MODEL",
        "A detector that was not trained here: torchvision:NAME of a model builder, detectron2:CONFIG, or"
        " python:MODULE:FUNCTION; repeat it to compare several. Its results go to runs/NAME, which --run opens"
        " again.",
    )
    weights: list[str] | None = value(
        "NAME|FILE",
        "Weights of --model: torchvision's name of some (DEFAULT, COCO_V1), or a file. Once for all models,"
        " or once for each.",
    )
    class_names: list[str] | None = value(
        "FILE|NAME,...",
        "Names of the model's classes, for weights that do not say them: a file with a name a line, COCO's"
        " JSON, or the names with commas between.",
    )
    class_map: list[str] | None = value(
        "FILE",
        "Which class of the data is which of the detector's, where their names do not say it: YAML or JSON,"
        " `class of the data: class of the detector`, null to leave one out. Once for all detectors, or once for"
        " each.",
    )


@dataclass(frozen=True)
class DataOptions:
    """Which data are read. None at all means the run's own test split."""

    data: DataOption = None
    annotations: AnnotationsOption = None
    images: ImagesOption = None
    split: str | None = value("NAME", "Split to read. Without it: the run's test split.")


@dataclass(frozen=True)
class MeasuringOptions:
    """What is measured, and how; None leaves the detector's own settings."""

    overrides: list[str] | None = argument(
        "KEY=VALUE", "Measuring settings to change, for example measuring.rows_per_bin=50.", None
    )
    max_images: MaxImagesOption = None
    objects_per_image: int | None = value("N", "N objects an image.", bounds.OBJECTS)
    proposals_per_object: int | None = value(
        "N",
        "Measure N of the grid's boxes, drawn from every IoU bin, instead of all of them; what they say of"
        " the whole grid has a sampling error, which is stated.",
        bounds.PROPOSALS,
    )
    grid_steps: int | None = value(
        "N",
        "Steps of the grid in each of its four directions (11: 14,641 boxes an object).",
        bounds.GRID_STEPS,
    )
    precision: str | None = value(
        "float32|bfloat16", "Arithmetic of the heads; bfloat16 is faster and rounds."
    )
    memory_mb: int | None = value(
        "MIB",
        "Bound on what the heads hold at once of proposals, beside one image's features (512 unless set): how many"
        " RoIs are computed together. It changes no result beyond rounding.",
        bounds.MEMORY_MB,
    )


@dataclass(frozen=True)
class ResultsOptions:
    """Files of final detections beside or in place of detectors, and how they are read.

    Of the ways of reading each is given once for all files, or once for each; ``none`` leaves it to the kind of file.
    """

    detections: list[str] | None = value(
        "[NAME=]FILE",
        "Final detections, without a model: COCO's results JSON, a folder of YOLO's labels with confidences, VOC's"
        " comp3_det_test_CLASS.txt or a folder of them; repeat it to compare several. --annotations is then COCO's"
        " JSON, or a folder of VOC's XML or YOLO's labels, and needs no --images.",
    )
    box_format: list[str] | None = value(
        "xywh|xyxy|cxcywh|yxyx|voc", "The numbers of a box of --detections."
    )
    box_frame: list[str] | None = value(
        "image|normalised|640x480|long:640|letterbox:640|short:800:1333",
        "Which image these boxes are in: the original, one of sides 1, or a resized one: stretched, scaled to a"
        " longer side, so in the middle of a square, or to a shorter side with a longest.",
    )
    category_ids: list[str] | None = value(
        "file|contiguous|contiguous-from-1|names",
        "Which class an entry names: by the annotation file's ids, by their order from 0 or 1, or by name.",
    )
    image_ids: list[str] | None = value(
        "ids|names|order",
        "Which image an entry names: by the annotation file's ids, by file name (or the id as text), or by the"
        " order of the annotation file from 0.",
    )
    score_scale: list[str] | None = value("probability|percent|logit", "What the scores are.")
    leave_out_unknown: bool = flag(
        "Leave out detections of images and classes that the annotations lack."
    )
    as_written: bool = flag(
        "Read --detections as these options say without asking whether another reading fits better."
    )
    label_names: str | None = value(
        "FILE|NAME,...",
        "Names of YOLO's classes: a data.yaml, or a file with a name a line. Without it: what lies beside the"
        " labels or above them.",
    )
    image_size: str | None = value(
        "WIDTHxHEIGHT|FILE",
        "Size of the images of YOLO's ground truth where the images are not there: one for all, or a file with a"
        " line `image width height` each.",
    )


@dataclass(frozen=True)
class StudyOptions:
    """Detectors, their heads, the data, and how they are measured."""

    detectors: DetectorOptions = DetectorOptions()
    head: HeadsOption = None
    data: DataOptions = DataOptions()
    measuring: MeasuringOptions = MeasuringOptions()
    device: DeviceOption = "auto"
    seed: SeedOption = None


@dataclass(frozen=True)
class DetectionOptions:
    """Final detections of detectors' heads and of files, and how often images are drawn for the intervals."""

    detectors: DetectorOptions = DetectorOptions()
    head: HeadsOption = None
    data: DataOptions = DataOptions()
    results: ResultsOptions = ResultsOptions()
    max_images: MaxImagesOption = None
    device: DeviceOption = "auto"
    seed: SeedOption = None
    draws: int | None = value(
        "N",
        "Draws of images for the intervals (1,000 unless given); 0 for no intervals, which is quicker.",
        bounds.DRAWS,
    )

    @property
    def study(self) -> StudyOptions:
        """The options of the detectors. What is detected does not depend on the seed."""
        measuring = MeasuringOptions(max_images=self.max_images)
        return StudyOptions(self.detectors, self.head, self.data, measuring, self.device)
