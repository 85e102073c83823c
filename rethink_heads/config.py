"""What a run is made from: pydantic models, presets and overrides.

A preset (``presets/<name>.yaml``, or a file of one's own) says everything but the head. Overrides
are strings such as ``training.max_iterations=100``; an unknown key is refused with the nearest
valid name. The defaults are the paper's (Wu et al. 2020 and the authors' code).
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
    model_serializer,
    model_validator,
)
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from rethink_heads.conventions import ConventionsConfig
from rethink_heads.errors import UserError
from rethink_heads.head_names import DEFAULT_HEAD, HeadName, head_name
from rethink_heads.overrides import apply_overrides, read_mapping, validate
from rethink_heads.presets import preset_values, split_preset

Head = Annotated[HeadName, BeforeValidator(head_name)]
SHAPES = "shapes"
FIRST_IN_FILE = ("preset", "head", "detector")

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
# A run is opened again later, perhaps from another folder: so paths are kept absolute.
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class Settings(BaseModel):
    """Settings that are fixed once read and refuse unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        return str(Path(source).expanduser().absolute())

    def paths(
        self, role: Literal["train", "val", "test"], generate: bool = True
    ) -> tuple[Path, Path]:
        """Return the annotation file and the image folder of a role.

        Without ``generate`` those of the generated set are only named, to be compared with others.

        Raises:
            UserError: only one of the pair is given, no source is given, or it has no such split.
        """
        from rethink_heads.data.sources import resolve_split

        annotations: Path | None = getattr(self, f"{role}_annotations")
        images: Path | None = getattr(self, f"{role}_images")
        if annotations is not None and images is not None:
            return annotations, images
        if annotations is not None or images is not None:
            raise UserError(
                f"data.{role}_annotations and data.{role}_images go together: give both or neither"
            )
        if self.source is None:
            raise UserError(
                f"no {role} data: give a folder in COCO or VOC layout with --data FOLDER,"
                f" or data.{role}_annotations=FILE and data.{role}_images=FOLDER"
            )
        return resolve_split(self.source, getattr(self, f"{role}_split"), generate)


class ModelConfig(Settings):
    """The detector: backbone, FPN, RPN, RoIAlign, heads and how they are read.

    Sizes are in pixels. ``conv_blocks`` is the paper's K (bottlenecks after the widening block).
    ``l_fc``, ``l_conv``, ``w_fc`` and ``w_conv`` left at None take the paper's values for the head.
    ``conventions`` are another framework's where its weights were imported.
    """

    backbone: Literal["tiny", "resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    pretrained: bool = True
    norm: Literal["frozen", "batch"] = "frozen"
    trainable_layers: int = Field(default=3, ge=0, le=5)
    fpn_channels: Count = 256
    roi_resolution: Count = 7
    sampling_ratio: int = Field(default=2, ge=0)
    fc_width: Count = 1024
    conv_width: Count = 1024
    conv_bottleneck: Count = 256
    conv_blocks: int = Field(default=2, ge=0)
    non_local: bool = False
    non_local_groups: Count = 4
    conv_enlargement: PositiveFloat = 1.3
    anchor_sizes: list[Count] = Field(default=[32, 64, 128, 256, 512], min_length=5, max_length=5)
    anchor_ratios: list[PositiveFloat] = Field(default=[0.5, 1.0, 2.0], min_length=1)
    rpn_proposals_train: Count = 2000
    rpn_proposals_test: Count = 1000
    rois_per_image: Count = 512
    positive_fraction: Fraction = 0.25
    smooth_l1_beta: float = Field(default=1.0, ge=0.0)
    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = 0.5
    detections_per_image: Count = 100
    l_fc: Fraction | None = None
    l_conv: Fraction | None = None
    w_fc: float | None = Field(default=None, ge=0.0)
    w_conv: float | None = Field(default=None, ge=0.0)
    fusion: Literal["complementary", "max", "mean"] = "complementary"
    min_size: Count = 800
    max_size: Count = 1333
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    conventions: ConventionsConfig = ConventionsConfig()

    @model_serializer(mode="wrap")
    def _leave_out_usual_conventions(self, to_mapping: SerializerFunctionWrapHandler) -> Any:
        # Files and measurements of detectors trained here say the same as before there were others.
        values = to_mapping(self)
        if self.conventions == ConventionsConfig():
            values.pop("conventions", None)
        return values

    @model_validator(mode="after")
    def _sizes_in_order(self) -> ModelConfig:
        if self.min_size > self.max_size:
            raise ValueError(
                f"model.min_size ({self.min_size}) is above model.max_size ({self.max_size})"
            )
        return self

    @model_validator(mode="after")
    def _groups_divide(self) -> ModelConfig:
        if self.non_local and (self.conv_width // 2) % self.non_local_groups:
            raise ValueError(
                f"half of model.conv_width ({self.conv_width // 2}) is not divisible by"
                f" model.non_local_groups ({self.non_local_groups})"
            )
        return self


class TrainingConfig(Settings):
    """SGD with a linear warm-up and steps, counted in iterations.

    ``batch_size`` is the number of images of one iteration over all processes together.
    """

    max_iterations: Count = 180_000
    batch_size: Count = 8
    learning_rate: PositiveFloat = 0.01
    warmup_iterations: int = Field(default=500, ge=0)
    warmup_factor: PositiveFloat = 1 / 3
    milestones: list[Count] = [120_000, 160_000]
    gamma: PositiveFloat = 0.1
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=1e-4, ge=0.0)
    flip: bool = True
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    validate_every: Count = 5000
    validate_images: Count | None = None
    workers: int = Field(default=2, ge=0)
    gradient_clip: PositiveFloat | None = None
    checkpoint_every: Count = 1000


class MeasuringConfig(Settings):
    """Which objects and proposals are measured. None means all of them.

    ``images`` takes the first images of the test split; ``objects_per_image`` is a seeded choice.
    ``proposals_per_object`` draws that many of the grid's boxes, stratified by IoU bin, and
    weighs them so that estimates stay unbiased. ``memory_mb`` bounds what measuring,
    merging and analysing hold at once of proposals and detections, beside the detector and one image's
    features (ranks of very many rows take up to 512 MiB), and changes no result beyond rounding.
    ``precision`` is the arithmetic of the heads.
    ``class_map`` is a file that says which of the detector's classes a class of the data is, where
    their names do not (see :mod:`rethink_heads.detectors.classes.mapping`).
    """

    images: Count | None = None
    objects_per_image: Count | None = None
    grid_steps: int = Field(default=11, ge=3)
    rows_per_bin: int = Field(default=20, ge=0)
    proposals_per_object: Count | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    memory_mb: Count = 512
    class_map: AbsolutePath | None = None

    @model_serializer(mode="wrap")
    def _leave_out_later_settings(self, to_mapping: SerializerFunctionWrapHandler) -> Any:
        # Measurements without them say the same of themselves as before there were any.
        values = to_mapping(self)
        if self.class_map is None:
            values.pop("class_map", None)
        if self.precision == "float32":
            values.pop("precision", None)
        return values

    @field_validator("grid_steps")
    @classmethod
    def _odd(cls, grid_steps: int) -> int:
        if grid_steps % 2 == 0:
            raise ValueError("must be odd, or the exact box is not on the grid")
        return grid_steps


class StudyConfig(Settings):
    """What measuring needs to know: the seed, the data and what of it is measured."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    data: DataConfig = DataConfig()
    measuring: MeasuringConfig = MeasuringConfig()

    def to_yaml(self) -> str:
        """Return the settings as YAML that :meth:`from_yaml` reads back."""
        values = self.model_dump(mode="json")
        first = {name: values[name] for name in FIRST_IN_FILE if name in values}
        return yaml.safe_dump(first | values, sort_keys=False)

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read settings from a file.

        Raises:
            UserError: no such file, not YAML, an unknown key or a bad value.
        """
        return validate(cls, read_mapping(Path(path)), str(path))

    def with_overrides(self, overrides: list[str]) -> Self:
        """Return a copy with ``key=value`` overrides applied (see :func:`load_preset`)."""
        values = self.model_dump(mode="json")
        apply_overrides(values, overrides)
        return validate(type(self), values, "override")

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
    values["head"] = head or named or DEFAULT_HEAD
    if seed is not None:
        values["seed"] = seed
    apply_overrides(values, overrides or [])
    return validate(Config, values, f"preset {name}")
