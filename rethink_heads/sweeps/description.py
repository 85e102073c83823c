"""What a sweep compares: a YAML file of points over one run description, read and checked.

A file has either ``points`` (a list) or ``axes`` (settings and their values, of which every combination is a point);
``read_only`` axes are ways to read a trained detector and need no training of their own::

    name: depth
    title: Depth of the conv-head
    base: {head: double}
    axes:
      model.conv_blocks: [1, 2, 3]
      model.non_local: [false, true]
    figure: {kind: line, x: model.conv_blocks, series: model.non_local}

The preset is the file's or the command's, so that one sweep serves every data set.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rethink_heads import bounds
from rethink_heads.config import Config, Head
from rethink_heads.errors import UserError
from rethink_heads.settings import (
    nearest_setting,
    parse_yaml,
    read_mapping,
    setting_names,
    validate,
)

# What a point may not change: the table compares points on the same images, seed by seed.
FIXED = {
    "preset": "a sweep has one preset: give it with --preset",
    "seed": "give the seeds under 'seeds' or with --seed",
    "head": "give the head under 'head', or in 'axes' as head: [...]",
    "data": "all points are compared on the same data: give it under 'base' or with --data",
    "measuring": "average precision does not depend on measuring settings",
    "model.fusion": "it needs no training: give it under 'fusion', or in 'read_only' as fusion: [...]",
}
# Axes that are fields of a point and not settings of its run.
WITHOUT_SETTING = ("head", "reading", "fusion")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Value = bool | int | float | str
Fusion = Literal["complementary", "max", "mean"]


def _label(text: str) -> str:
    """A label names a folder inside the sweep's own, so it has no slashes and is no path."""
    if not LABEL.fullmatch(text):
        raise ValueError("use letters, digits, '.', '_' and '-', a letter or digit first")
    return text


Label = Annotated[str, AfterValidator(_label)]


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseDescription(_Description):
    """What all points share."""

    preset: str | None = None
    head: Head | None = None
    overrides: tuple[str, ...] = ()


class PointDescription(_Description):
    """One point: how its training differs from the base, and how the trained detector is read.

    Points whose trainings are the same share one. ``reading`` None is the fullest that the training makes meaningful,
    ``fusion`` None the training's own rule.
    """

    label: Label
    title: str | None = None
    head: Head | None = None
    overrides: tuple[str, ...] = ()
    reading: Head | None = None
    fusion: Fusion | None = None


@dataclass(frozen=True)
class Point:
    """A row of the table: a training, and how its detector is read.

    Attributes:
        values: of the sweep's axes by name; empty in a sweep of points.
        training: the label of its trainings; where the sweep does not say, empty until it is planned.
        head: that is trained; where the sweep does not say, None until it is planned.
        overrides: settings of the training.
        reading: None is the fullest that the training makes meaningful.
        fusion: None is the training's own rule.
    """

    label: str
    title: str
    values: Mapping[str, Value]
    training: str
    head: str | None
    overrides: tuple[str, ...]
    reading: str | None
    fusion: str | None


class ReadOnlyAxes(_Description):
    """Ways to read one trained detector."""

    reading: tuple[Head, ...] = ()
    fusion: tuple[Fusion, ...] = ()


class FigureDescription(_Description):
    """How the sweep's figure is drawn: ``points``, a ``line`` over x (a line a series), a ``heatmap`` of x and y."""

    kind: Literal["points", "line", "heatmap"] = "points"
    x: str | None = None
    y: str | None = None
    series: str | None = None
    labels: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _has_axes(self) -> FigureDescription:
        if self.kind != "points" and self.x is None:
            raise ValueError(f"a figure of kind {self.kind} needs 'x', one of the sweep's axes")
        if self.kind == "heatmap" and self.y is None:
            raise ValueError("a figure of kind heatmap needs 'y', one of the sweep's axes")
        return self

    def check(self, axes: Mapping[str, Sequence[Value]], where: str) -> None:
        """Find what cannot be drawn before the trainings and not after them.
        Raises UserError where x or y has texts for values, or an axis is not drawn, over whose values it would average.
        """
        if self.kind == "points":
            return
        numbers = [axis for axis in (self.x, self.y if self.kind == "heatmap" else None) if axis]
        for axis in numbers:
            if any(isinstance(value, str) for value in axes[axis]):
                raise UserError(
                    f"{where}: {axis!r} has values that are no numbers; use kind: points"
                )
        drawn = {*numbers, self.series if self.kind == "line" else None}
        for axis, values in axes.items():
            if axis not in drawn and len(values) > 1:
                raise UserError(
                    f"{where}: a {self.kind} of {', '.join(numbers)} does not tell the values of {axis!r}"
                    " apart; name it as the line's 'series', or use kind: points"
                )


class SweepDescription(_Description):
    """A sweep as its file says it; :meth:`expand` gives its points."""

    name: Label
    title: str
    base: BaseDescription = BaseDescription()
    seeds: Annotated[
        tuple[Annotated[int, AfterValidator(bounds.SEED)], ...], Field(min_length=1, max_length=100)
    ] = (0, 1)
    points: Annotated[tuple[PointDescription, ...], Field(max_length=bounds.MOST_POINTS)] = ()
    axes: Mapping[str, tuple[Value, ...]] = {}
    read_only: ReadOnlyAxes = ReadOnlyAxes()
    # The paper's ranking, best first; labels of one tier are not ranked among themselves.
    paper_order: tuple[tuple[str, ...], ...] = ()
    # What is said beside the ranking wherever it is printed, such as what of it was not read.
    paper_note: str = ""
    figure: FigureDescription = FigureDescription()

    @model_validator(mode="after")
    def _consistent(self) -> SweepDescription:
        read_only = bool(self.read_only.reading or self.read_only.fusion)
        if self.points and (self.axes or read_only):
            raise ValueError("give either 'points' or 'axes' and 'read_only', not both")
        if not (self.points or self.axes or read_only):
            raise ValueError("nothing to sweep: give 'points', 'axes' or 'read_only'")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is given twice")
        return self

    def expand(self) -> tuple[Point, ...]:
        """Return the points, those of axes in the order of their values, the last axis fastest.

        Raises:
            UserError: an axis or a label cannot be used, or two points have the same label.
        """
        points = tuple(map(self._point, self.points)) or tuple(self._combinations())
        labels = [point.label for point in points]
        for point in points:
            if labels.count(point.label) > 1:
                raise UserError(f"sweep {self.name}: two points are called {point.label!r}")
            for override in point.overrides:
                _check_free(override.partition("=")[0].strip(), f"point {point.label}")
        self._check_names(labels)
        return points

    def _point(
        self, point: PointDescription, values: Mapping[str, Value] | None = None, training: str = ""
    ) -> Point:
        """The point, titled by the names that the figure gives the values of the axes, where it gives all."""
        values, names = values or {}, self.figure.labels
        keys = [f"{name}={value_text(value)}" for name, value in values.items()]
        called = ", ".join(names[key] for key in keys) if names.keys() >= set(keys) else ""
        head = point.head or self.base.head
        return Point(
            point.label,
            point.title or called or point.label,
            values,
            training,
            head,
            point.overrides,
            point.reading,
            point.fusion,
        )

    def _combinations(self) -> Iterator[Point]:
        known = list(setting_names(Config))
        for name in self.axes:
            if name != "head":
                _check_free(name, f"sweep {self.name}")
                if name not in known:
                    hint = nearest_setting(name, known)
                    raise UserError(f"unknown setting {name!r} (sweep {self.name}); {hint}")
        readings: dict[str, tuple[Any, ...]] = {
            name: values for name, values in self.read_only if values
        }
        for name, values in (*self.axes.items(), *readings.items()):
            if not values:
                raise UserError(f"axis {name!r} has no values")
            if len({value_text(value) for value in values}) < len(values):
                raise UserError(f"axis {name!r} has a value twice")
        points = math.prod(map(len, [*self.axes.values(), *readings.values()]))
        if points > bounds.MOST_POINTS:
            raise UserError(
                f"sweep {self.name} has {points:,} points, more than {bounds.MOST_POINTS:,}: give its axes fewer values"
            )
        for chosen in itertools.product(*self.axes.values(), *readings.values()):
            settings = dict(zip([*self.axes, *readings], chosen, strict=True))
            trained = {name: settings[name] for name in self.axes}
            label = _named(settings)
            fields: dict[str, Any] = {
                "label": label,
                "overrides": [f"{k}={value_text(v)}" for k, v in trained.items() if k != "head"],
                **{name: settings[name] for name in WITHOUT_SETTING if name in settings},
            }
            point = validate(PointDescription, fields, f"sweep {self.name}, point {label}")
            yield self._point(point, settings, _named(trained))

    def _check_names(self, labels: Sequence[str]) -> None:
        """Names of points and axes elsewhere in the file must be those of the sweep."""
        for label in itertools.chain.from_iterable(self.paper_order):
            if label not in labels:
                raise UserError(
                    f"paper_order of sweep {self.name}: no point {label!r}; {nearest_name(label, labels, 'points')}"
                )
        axes = {**self.axes, **{name: values for name, values in self.read_only if values}}
        for axis in (self.figure.x, self.figure.y, self.figure.series):
            if axis is not None and axis not in axes:
                hint = "a sweep of points has no axes"
                if axes:
                    hint = nearest_name(axis, list(axes), "axes")
                raise UserError(f"figure of sweep {self.name}: no axis {axis!r}; {hint}")
        self.figure.check(axes, f"figure of sweep {self.name}")

    def with_values(self, choices: Sequence[str]) -> SweepDescription:
        """Return the sweep with other values of its axes, each given as ``setting=value,value``.

        Raises:
            UserError: it has no such axis.
        """
        axes = dict(self.axes)
        for choice in choices:
            name, equals, values = choice.partition("=")
            if not equals or not values:
                raise UserError(
                    f"cannot read {choice!r} as an axis; write setting=value,value,"
                    " for example model.conv_blocks=1,2"
                )
            if name not in axes:
                hint = nearest_name(name, list(axes), "axes") if axes else "it has none"
                raise UserError(f"sweep {self.name} has no axis {name!r}; {hint}")
            axes[name] = tuple(_scalar(text, choice) for text in values.split(","))
        return self.model_copy(update={"axes": axes})


def _check_free(name: str, where: str) -> None:
    for fixed, remedy in FIXED.items():
        if name == fixed or name.startswith(f"{fixed}."):
            raise UserError(f"{where} cannot change {name!r}; {remedy}")


def _named(settings: Mapping[str, Value]) -> str:
    """``conv_blocks-2-non_local-true``; a text stands for itself: ``resnet50-fc``."""
    parts = []
    for name, value in settings.items():
        text = value_text(value)
        parts.append(text if isinstance(value, str) else f"{name.rpartition('.')[2]}-{text}")
    return "-".join(parts)


def nearest_name(name: str, valid: Sequence[str], what: str) -> str:
    """The valid name that was meant, as a question; or those that there are."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"the {what} are {', '.join(valid)}"


def value_text(value: Value) -> str:
    """A value as an override and a label write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _scalar(text: str, choice: str) -> Value:
    try:
        value = parse_yaml(text, "the value")
    except UserError:
        value = None
    if not isinstance(value, (bool, int, float, str)):
        raise UserError(
            f"cannot read {text!r} of the axis {choice} as a value; write setting=value,value without"
            " brackets or spaces"
        )
    return value


def sweep_names() -> tuple[str, ...]:
    """Return the names of the sweeps that come with the package, sorted."""
    names = (entry.name for entry in resources.files("rethink_heads.sweeps").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def load_sweep(name: str | Path) -> SweepDescription:
    """Read a sweep by its name, or the file of one of your own (it ends in .yaml or .yml).

    Raises:
        UserError: no such sweep, or the file has a mistake; the message names it.
    """
    if str(name) in sweep_names():
        with resources.as_file(resources.files("rethink_heads.sweeps") / f"{name}.yaml") as path:
            return _described(read_mapping(path), f"sweep {name}")
    if Path(name).suffix in (".yaml", ".yml"):
        return _described(read_mapping(Path(name)), str(name))
    raise UserError(
        f"unknown sweep {str(name)!r}; {nearest_name(str(name), sweep_names(), 'sweeps')}"
        " (or give the path of a .yaml file)"
    )


def _described(values: dict[str, Any], where: str) -> SweepDescription:
    points = values.get("points")
    if isinstance(points, list):
        # One by one, so that a mistake is explained with the names a point has.
        for number, point in enumerate(points, 1):
            if not isinstance(point, dict):
                raise UserError(f"point {number} of {where} is no mapping: write label: NAME")
            validate(PointDescription, point, f"point {number} of {where}")
    return validate(SweepDescription, values, where)
