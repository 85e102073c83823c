"""What a run is made from: pydantic models, presets and overrides.

A preset (``presets/<name>.yaml``, or a file of one's own) says everything but the head. Overrides
are strings such as ``training.max_iterations=100``; an unknown key is refused with the nearest
valid name. The defaults are the paper's (Wu et al. 2020 and the authors' code), but for the arithmetic that
other frameworks' detectors share (``model.conventions``, anchors that leave the image, rates of biases): there
they are torchvision's, and presets or :func:`load_preset` say the paper's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from rethink_heads import bounds
from rethink_heads.bounds import DEFAULT_HEAD, Bounds, HeadName, head_name
from rethink_heads.errors import UserError, unwritable
from rethink_heads.files import expand_home
from rethink_heads.settings import (
    apply_overrides,
    preset_values,
    read_mapping,
    split_preset,
    validate,
)
from rethink_heads.timm_models import PREFIX, model_config, normalisation, timm_name

Framework = Literal["torchvision", "maskrcnn-benchmark", "mmdetection", "detectron2"]


class ConventionsConfig(BaseModel):
    """Arithmetic around a detector's weights; sizes in pixels.

    Attributes:
        box_ends: what a box's x2 and y2 are: the ``edge`` behind its last pixel, or the index of the last ``pixel``
            (maskrcnn-benchmark), so that a width is x2 - x1 + 1. Inside a detector boxes are edges in either case: a
            pixel's index is its edge less 1. The convention decides how boxes are scaled with an image (their
            indices are), clipped (to indices 0..W-1), pooled (RoIAlign is given indices) and what anchors are.
        channel_order: order of the colours that the network is fed.
        pixel_range: the value of white there, before ``model.image_mean`` is taken off and ``model.image_std`` divides.
        size_rule: how the size of the resized image is rounded.
        interpolation: ``float`` resizes the normalised image (torchvision); the others resize 8-bit pixels and
            round, ``pillow`` with Pillow itself (it smooths where it shrinks), ``opencv`` with OpenCV's arithmetic.
        pad_multiple: sides of a batch are padded with zeros to a multiple of this.
        stride_in_1x1: a bottleneck of the backbone strides in its first 1x1 convolution, not in its 3x3.
        frozen_norm_epsilon: added to the variance by frozen batch normalisation.
        anchors: torchvision rounds corners about a cell's corner and infers strides from the padded image;
            maskrcnn-benchmark rounds sides of a cell-sized anchor, scales it, about the cell's middle;
            mmdetection and detectron2 round nothing, about the cell's corner. All but torchvision have strides 4 to 64.
        proposal_order: what suppression ranks the RPN's proposals by. It is the same order, but for far-off logits
            whose probabilities round to the same number.
        delta_limits: size deltas are limited to ``growth`` by 1000 / 16, or in ``both`` directions.
        roi_align_aligned: RoIAlign shifts by half a cell (``aligned=True``).
        roi_level_rule: where in log2 of an RoI's size the small constant is added that decides ties of levels.
        roi_level_from: an RoI's level follows its size before (``proposal``) or after (``enlarged``) the conv-head's
            enlargement. The authors' code and mmdetection take the former.
        least_proposal_side: a narrower or lower proposal of the RPN is dropped; 0 keeps all.
        least_detection_side: the same for detections.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    box_ends: Literal["edge", "pixel"] = "edge"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    pixel_range: Annotated[float, AfterValidator(bounds.PIXEL_RANGE)] = 1.0
    size_rule: Framework = "torchvision"
    interpolation: Literal["float", "pillow", "opencv"] = "float"
    pad_multiple: Annotated[int, Field(multiple_of=32), AfterValidator(bounds.PADDING)] = 32
    stride_in_1x1: bool = False
    frozen_norm_epsilon: Annotated[float, AfterValidator(bounds.EPSILON)] = 1e-5
    anchors: Framework = "torchvision"
    delta_limits: Literal["growth", "both"] = "growth"
    roi_align_aligned: bool = False
    roi_level_rule: Framework = "torchvision"
    roi_level_from: Literal["enlarged", "proposal"] = "enlarged"
    least_proposal_side: Annotated[float, AfterValidator(bounds.LEAST_SIDE)] = 1e-3
    least_detection_side: Annotated[float, AfterValidator(bounds.LEAST_SIDE)] = 0.01
    proposal_order: Literal["probability", "logit"] = "probability"


MASKRCNN_BENCHMARK = ConventionsConfig(
    box_ends="pixel",
    channel_order="bgr",
    pixel_range=255.0,
    size_rule="maskrcnn-benchmark",
    interpolation="pillow",
    stride_in_1x1=True,
    frozen_norm_epsilon=0.0,
    anchors="maskrcnn-benchmark",
    roi_level_rule="maskrcnn-benchmark",
    roi_level_from="proposal",
    least_proposal_side=0.0,
    least_detection_side=0.0,
)
"""maskrcnn-benchmark's, as the authors of Double-Head set it up (their code and configuration files)."""

MMDETECTION = ConventionsConfig(
    pixel_range=255.0,
    size_rule="mmdetection",
    interpolation="opencv",
    anchors="mmdetection",
    delta_limits="both",
    roi_align_aligned=True,
    roi_level_rule="mmdetection",
    roi_level_from="proposal",
    # It asks for sides above zero, not for at least zero.
    least_proposal_side=1e-30,
    least_detection_side=0.0,
)
"""mmdetection's in ``dh-faster-rcnn_r50_fpn_1x_coco`` (mmdetection 3.3)."""

DETECTRON2 = ConventionsConfig(
    channel_order="bgr",
    pixel_range=255.0,
    size_rule="detectron2",
    interpolation="pillow",
    stride_in_1x1=True,
    anchors="detectron2",
    proposal_order="logit",
    roi_align_aligned=True,
    roi_level_rule="detectron2",
    # It asks for sides above zero, not for at least zero.
    least_proposal_side=1e-30,
    least_detection_side=1e-30,
)
"""detectron2's with its default settings; a model's own may set colours, strides and RoIAlign otherwise.

Detections without width or height are dropped before NMS here and last of all in detectron2, where they can take places
of the best 100.
"""


BACKBONES = ("tiny", "resnet18", "resnet34", "resnet50", "resnet101")
LITE0, LITE0_BACKBONE = "lite0", "tf_efficientnet_lite0"
"""Weights that an installed package has, and timm's name of the backbone that they are for."""


def _backbone_name(name: str) -> str:
    if name not in BACKBONES and not timm_name(name):
        raise ValueError(f"must be {', '.join(map(repr, BACKBONES))} or '{PREFIX}NAME'")
    return name


def _absolute_weights(source: str) -> str:
    return source if source == LITE0 else str(expand_home(source).absolute())


Head = Annotated[HeadName, BeforeValidator(head_name)]
SHAPES = "shapes"
CONFIG_NAME = "config.yaml"
"""The settings of a run, in its folder."""
FIRST_IN_FILE = ("preset", "head", "detector")

Fraction = Annotated[float, AfterValidator(bounds.FRACTION)]
Factor = Annotated[float, AfterValidator(bounds.FACTOR)]
Images = Annotated[int, AfterValidator(bounds.IMAGES)]
Iterations = Annotated[int, AfterValidator(bounds.ITERATIONS)]
Boxes = Annotated[int, AfterValidator(bounds.BOXES)]
Channels = Annotated[int, AfterValidator(bounds.CHANNELS)]
Side = Annotated[int, AfterValidator(bounds.SIDE)]
TaskWeight = Annotated[float, AfterValidator(bounds.TASK_WEIGHT)]
PixelMean = Annotated[float, AfterValidator(bounds.PIXEL_MEAN)]
PixelDeviation = Annotated[float, AfterValidator(bounds.PIXEL_DEVIATION)]
# A run is opened again later, perhaps from another folder: so paths are kept absolute.
AbsolutePath = Annotated[Path, AfterValidator(lambda path: expand_home(path).absolute())]


class Settings(BaseModel):
    """Settings that are fixed once read and refuse unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _writable(cls, value: Any) -> Any:
        """Settings are written as text, and name files."""
        if isinstance(value, str | Path):
            character = unwritable(str(value))
            if character:
                raise ValueError(f"it has {character}, which no text file can hold")
        return value


class DataConfig(Settings):
    """Where images and annotations come from.

    ``source`` is ``shapes`` (the generated set) or a folder in COCO or VOC layout. A pair such as
    ``test_annotations`` and ``test_images`` takes the place of that split of the source.
    """

    source: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "val"
    train_annotations: AbsolutePath | None = None
    train_images: AbsolutePath | None = None
    val_annotations: AbsolutePath | None = None
    val_images: AbsolutePath | None = None
    test_annotations: AbsolutePath | None = None
    test_images: AbsolutePath | None = None

    @field_validator("source")
    @classmethod
    def _absolute_source(cls, source: str | None) -> str | None:
        if source is None or source == SHAPES:
            return source
        return str(expand_home(source).absolute())


class ModelConfig(Settings):
    """The detector: backbone, FPN, RPN, RoIAlign, heads and how they are read.

    Sizes are in pixels. ``backbone`` is the ``tiny`` network, a ResNet of torchvision, or ``timm:NAME``, any network of
    timm with feature maps of strides 4, 8, 16 and 32 or some of them; :func:`load_preset` takes ``image_mean`` and
    ``image_std`` of those from timm, unless they are set. ``backbone_weights`` is a file of the backbone's weights, as
    torchvision or timm names them, or ``lite0``, EfficientNet-Lite0's from a package; it takes the place of
    ``pretrained``, which downloads those of that name. ``trainable_layers`` of the stem and four stages are trained,
    the last first. ``conv_blocks`` is the paper's K (bottlenecks after the residual block).
    ``canonical_size`` is the side of a square RoI that is pooled from P4: levels are floor(4 + log2(sqrt(area) /
    ``canonical_size``)), P2 to P5. The paper's 224 is for images of 800 pixels: scale it with ``min_size``, or small
    images have all their RoIs on P2 and P3.
    ``fpn_norm`` follows each convolution of the FPN, ``group`` in 32 groups or their greatest divisor that the
    channels have. The paper has none; a body whose stages end without an activation needs it to train quickly.
    ``l_fc``, ``l_conv``, ``w_fc`` and ``w_conv`` left at None are the head's own (``heads.STRUCTURES``).
    ``rpn_cross_boundary_anchors`` trains the RPN on anchors that leave the image as well, which the authors'
    code does not; an image that no anchor fits in keeps them. ``conventions`` are another framework's where
    its weights were imported.
    """

    backbone: Annotated[str, AfterValidator(_backbone_name)] = "resnet50"
    pretrained: bool = True
    backbone_weights: Annotated[str, AfterValidator(_absolute_weights)] | None = None
    norm: Literal["frozen", "batch"] = "frozen"
    trainable_layers: Annotated[int, AfterValidator(Bounds(0, 5))] = 3
    fpn_channels: Channels = 256
    # An override's "none" is read as no value.
    fpn_norm: Annotated[
        Literal["none", "group", "batch"], BeforeValidator(lambda value: value or "none")
    ] = "none"
    roi_resolution: Annotated[int, AfterValidator(bounds.RESOLUTION)] = 7
    sampling_ratio: Annotated[int, AfterValidator(bounds.SAMPLING_RATIO)] = 2
    canonical_size: Annotated[int, AfterValidator(bounds.CANONICAL_SIZE)] = 224
    fc_width: Channels = 1024
    conv_width: Channels = 1024
    conv_bottleneck: Channels = 256
    conv_blocks: Annotated[int, AfterValidator(bounds.BLOCKS)] = 2
    non_local: bool = False
    non_local_groups: Annotated[int, AfterValidator(bounds.GROUPS)] = 4
    conv_enlargement: Annotated[float, AfterValidator(bounds.ENLARGEMENT)] = 1.3
    anchor_sizes: Annotated[
        list[Annotated[int, AfterValidator(bounds.ANCHOR_SIZE)]], Field(min_length=5, max_length=5)
    ] = [32, 64, 128, 256, 512]
    anchor_ratios: Annotated[
        list[Annotated[float, AfterValidator(bounds.ANCHOR_RATIO)]],
        Field(min_length=1, max_length=20),
    ] = [0.5, 1.0, 2.0]
    rpn_proposals_train: Boxes = 2000
    rpn_proposals_test: Boxes = 1000
    rpn_cross_boundary_anchors: bool = True
    rois_per_image: Boxes = 512
    positive_fraction: Fraction = 0.25
    smooth_l1_beta: Annotated[float, AfterValidator(bounds.BETA)] = 1.0
    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = 0.5
    detections_per_image: Boxes = 100
    l_fc: Fraction | None = None
    l_conv: Fraction | None = None
    w_fc: TaskWeight | None = None
    w_conv: TaskWeight | None = None
    fusion: Literal["complementary", "max", "mean"] = "complementary"
    min_size: Side = 800
    max_size: Side = 1333
    image_mean: tuple[PixelMean, PixelMean, PixelMean] = (0.485, 0.456, 0.406)
    image_std: tuple[PixelDeviation, PixelDeviation, PixelDeviation] = (0.229, 0.224, 0.225)
    conventions: ConventionsConfig = ConventionsConfig()

    @model_validator(mode="after")
    def _sizes_in_order(self) -> ModelConfig:
        if self.min_size > self.max_size:
            raise ValueError(
                f"model.min_size ({self.min_size}) is above model.max_size ({self.max_size})"
            )
        return self

    @model_validator(mode="after")
    def _weights_have_a_backbone(self) -> ModelConfig:
        if self.backbone_weights is not None and self.backbone == "tiny":
            raise ValueError("model.backbone_weights is for a ResNet or a network of timm")
        name = timm_name(self.backbone) or ""
        if self.backbone_weights == LITE0 and name.partition(".")[0] != LITE0_BACKBONE:
            if name:
                model_config(name)  # A name that timm does not know is told first.
            raise ValueError(
                f"model.backbone_weights={LITE0} is for model.backbone={PREFIX}{LITE0_BACKBONE};"
                f" for {self.backbone} give model.backbone_weights=FILE or none"
            )
        return self

    @model_validator(mode="after")
    def _heads_fit_a_machine(self) -> ModelConfig:
        fc = self.fc_width * (self.fpn_channels * self.roi_resolution**2 + self.fc_width)
        block = 2 * self.conv_width * self.conv_bottleneck + 9 * self.conv_bottleneck**2
        block += 2 * self.conv_width**2 if self.non_local else 0
        conv = 10 * self.fpn_channels * self.conv_width + self.conv_blocks * block
        if max(fc, conv) > bounds.MOST_HEAD_WEIGHTS:
            head, weights = ("fc", fc) if fc > conv else ("conv", conv)
            raise ValueError(
                f"model.{head}_width and the sizes beside it give a head of {weights:,} weights, more than"
                f" {bounds.MOST_HEAD_WEIGHTS:,}"
            )
        return self

    @model_validator(mode="after")
    def _groups_divide(self) -> ModelConfig:
        half = self.conv_width // 2
        if self.non_local and (half == 0 or half % self.non_local_groups):
            raise ValueError(
                f"half of model.conv_width ({half}) is not divisible by"
                f" model.non_local_groups ({self.non_local_groups})"
            )
        return self


class TrainingConfig(Settings):
    """SGD with a linear warm-up and steps, counted in iterations.

    ``batch_size`` is the number of images of one iteration over all processes together.
    Biases, those of normalisation too, learn at ``bias_learning_rate_factor`` times the rate of all
    else (2 in the authors' code) and decay by ``bias_weight_decay`` (0 there); None is ``weight_decay``.
    """

    max_iterations: Iterations = 180_000
    batch_size: Annotated[int, AfterValidator(bounds.BATCH_SIZE)] = 8
    learning_rate: Annotated[float, AfterValidator(bounds.RATE)] = 0.01
    warmup_iterations: Annotated[int, AfterValidator(Bounds(0, bounds.ITERATIONS.high))] = 500
    warmup_factor: Factor = 1 / 3
    milestones: Annotated[list[Iterations], Field(max_length=100)] = [120_000, 160_000]
    gamma: Factor = 0.1
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: Fraction = 1e-4
    bias_learning_rate_factor: Annotated[float, AfterValidator(bounds.RATE)] = 1.0
    bias_weight_decay: Fraction | None = None
    flip: bool = True
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    validate_every: Iterations = 5000
    validate_images: Images | None = None
    workers: Annotated[int, AfterValidator(bounds.WORKERS)] = 2
    gradient_clip: Annotated[float, AfterValidator(bounds.GRADIENT)] | None = None
    checkpoint_every: Iterations = 1000


class MeasuringConfig(Settings):
    """Which objects and proposals are measured. None means all of them.

    ``images`` takes the first images of the test split; ``objects_per_image`` is a seeded choice.
    ``proposals_per_object`` draws that many of the grid's boxes, stratified by IoU bin, and
    weighs them so that estimates stay unbiased. ``memory_mb`` bounds what the heads hold at once of
    RoIs, beside the detector and one image's features, and changes no result beyond rounding.
    ``precision`` is the arithmetic of the heads.
    ``class_map`` is a file that says which of the detector's classes a class of the data is, where
    their names do not (see :mod:`rethink_heads.detectors.classes`).
    """

    images: Images | None = None
    objects_per_image: Annotated[int, AfterValidator(bounds.OBJECTS)] | None = None
    grid_steps: Annotated[int, AfterValidator(bounds.GRID_STEPS)] = 11
    rows_per_bin: Annotated[int, AfterValidator(bounds.ROWS_PER_BIN)] = 20
    proposals_per_object: Annotated[int, AfterValidator(bounds.PROPOSALS)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    memory_mb: Annotated[int, AfterValidator(bounds.MEMORY_MB)] = 512
    class_map: AbsolutePath | None = None

    @field_validator("grid_steps")
    @classmethod
    def _odd(cls, grid_steps: int) -> int:
        if grid_steps % 2 == 0:
            raise ValueError("must be odd, or the exact box is not on the grid")
        return grid_steps


class StudyConfig(Settings):
    """What measuring needs to know: the seed, the data and what of it is measured."""

    seed: Annotated[int, AfterValidator(bounds.SEED)] = 0
    data: DataConfig = DataConfig()
    measuring: MeasuringConfig = MeasuringConfig()

    def to_yaml(self) -> str:
        """Return the settings as YAML that :meth:`from_yaml` reads back."""
        values = self.model_dump(mode="json")
        first = {name: values[name] for name in FIRST_IN_FILE if name in values}
        return yaml.safe_dump(first | values, sort_keys=False)

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read settings from a file. Raises UserError where that fails or a key or value is wrong."""
        return validate(cls, read_mapping(Path(path)), str(path))

    def with_overrides(self, overrides: list[str], where: str = "override") -> Self:
        """Return a copy with ``key=value`` overrides applied (see :func:`load_preset`).
        Raises UserError for an unknown key or a bad value.

        Args:
            overrides: strings ``section.key=value``.
            where: they were given, for messages: the option's name.
        """
        values = self.model_dump(mode="json")
        apply_overrides(values, overrides)
        return validate(type(self), values, where)

    def with_data(self, **changes: Any) -> Self:
        """Return a copy with fields of ``data`` changed, e.g. ``with_data(test_split="train")``."""
        values = self.model_dump()
        values["data"].update(changes)
        return validate(type(self), values, "data")


class Config(StudyConfig):
    """Everything that makes a run."""

    preset: str
    head: Head
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


def load_preset(
    name: str | Path,
    head: str | None = None,
    overrides: list[str] | None = None,
    seed: int | None = None,
) -> Config:
    """Return the settings of a preset with a head, overrides and a seed.

    Args:
        name: a preset's name, alone or with a head's after a hyphen (``shapes-tiny-double-head-reverse``), or
            the path of a YAML file (it ends in .yaml or .yml).
        head: one of ``HEADS``, or the paper's name of one. None takes the name's, else ``double-ext``.
        overrides: strings ``section.key=value``; the value is read as YAML.
        seed: takes the place of the preset's seed unless None.

    Raises:
        UserError: unknown preset, head or key, or a bad value.
    """
    recipe, named = split_preset(str(name))
    if head is not None and named is not None and head_name(head) != head_name(named):
        raise UserError(
            f"preset {name} is of head {named}, not of head {head}: give one of the two"
        )
    values = preset_values(recipe)
    values.setdefault("preset", Path(recipe).stem)
    values["head"] = (named or DEFAULT_HEAD) if head is None else head
    if seed is not None:
        values["seed"] = seed
    apply_overrides(values, overrides or [])
    config = validate(Config, values, f"preset {name}")
    said, conventions = config.model.model_fields_set, config.model.conventions
    changes: dict[str, Any] = {}
    if "roi_level_from" not in conventions.model_fields_set:
        # Where nothing else is said, RoIs of a new run take their level as in the authors' code.
        changes["conventions"] = conventions.model_copy(update={"roi_level_from": "proposal"})
    if own := timm_name(config.model.backbone):
        normalised = zip(("image_mean", "image_std"), normalisation(own), strict=True)
        changes |= {name: value for name, value in normalised if name not in said}
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})
