"""Trains and measures on one device in each of the ways there are, so that measurement chooses between them.

    benchmarks/device.sh FOLDER            # on a GPU, its tests first
    python -m benchmarks.device --device cpu --tiny --output FOLDER

Nothing is downloaded: weights are random, images and boxes made up; time does not depend on them. Detectors are
``coco-r50``'s at 800 pixels with 80 classes. What was measured is written after each row, and rows that would begin
after ``--seconds`` are left out and named.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar
from unittest import mock
from xml.etree import ElementTree

import torch
import typer
from torch import Tensor

from benchmarks import machine
from benchmarks.random_weights import random_detector, settings
from benchmarks.report import table
from benchmarks.subjects import Subject, sampled
from benchmarks.timing import seconds, synchronise
from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.fastpath.fc import FastFC
from rethink_heads.files import write_text
from rethink_heads.machine import resolve_device, whole_float32
from rethink_heads.measure.responses import DTYPES, Responder
from rethink_heads.planning import peak_mb, restart_peak
from rethink_heads.proposals import grid
from rethink_heads.training.module import parameter_groups

MIB = 2**20
CLASSES = tuple(f"class {number}" for number in range(80))
SIDES = {"small": 24, "medium": 64, "large": 250}
"""Of a square object, in pixels of the image."""
MEASURED_PRECISIONS = tuple(DTYPES)
TRAINED_PRECISIONS = {
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}
LEARNING_RATE = 1e-4
WARMUP = 2
TEST_COUNTS = ("tests", "failures", "errors", "skipped")
CPU_NOTE = "These are numbers of a CPU, from a test of the script: they say nothing of a GPU."

Result = TypeVar("Result")
Row = dict[str, Any]


class Way(NamedTuple):
    """One way to put an object's proposals through a head.

    Attributes:
        name: for tables.
        fast: by the fast path, rather than by ``pool`` and ``predict``.
        decided: by the place in ``rethink_heads.fastpath`` what the package would decide or set itself.
    """

    name: str
    fast: bool
    decided: Mapping[str, Any] = {}

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the package go this way inside the block."""
        with contextlib.ExitStack() as stack:
            for place, value in self.decided.items():
                stack.enter_context(mock.patch(f"rethink_heads.fastpath.{place}", value))
            yield


def always(*_: object) -> bool:
    """Decide for a way."""
    return True


def never(*_: object) -> bool:
    """Decide against a way."""
    return False


FC6, SPATIAL = "fc.FastFC._factors_pay", "conv._pays"
PLAIN = Way("plain", fast=False)
WAYS = {
    "fc": (
        PLAIN,
        Way("pooled by factors", True, {FC6: never}),
        Way("fc6 by factors, 14 MB", True, {FC6: always}),
        Way("fc6 by factors, 256 MB", True, {FC6: always, "fc.FACTORED_BYTES": 256 * 10**6}),
    ),
    "conv": (
        PLAIN,
        Way("pooled by factors", True, {SPATIAL: never}),
        Way("3x3 by frequency", True, {SPATIAL: always}),
    ),
}


class Amount(NamedTuple):
    """How much is done.

    Attributes:
        height, width: of an image before it is resized.
        grid_steps: of the predefined proposals.
        sample: of the proposals, beside all of them.
        steps: of training, after some that warm up.
        repeats: of measuring an object.
        overrides: of the preset's settings.
    """

    height: int = 600
    width: int = 800
    grid_steps: int = 11
    sample: int = 1464
    steps: int = 10
    repeats: int = 3
    overrides: tuple[str, ...] = ()


TINY = Amount(
    *(48, 64, 3, 20, 1, 1),
    (
        "model.backbone=tiny",
        "model.fpn_channels=8",
        "model.fc_width=8",
        "model.conv_width=8",
        "model.conv_bottleneck=4",
        "model.min_size=48",
        "model.max_size=64",
        "model.rpn_proposals_train=20",
        "model.rois_per_image=8",
    ),
)


def made_up_subjects(amount: Amount) -> list[Subject]:
    """An object of each size in an image of coarse noise."""
    generator = torch.Generator().manual_seed(0)
    size, found = (amount.height, amount.width), []
    for label, (name, side) in enumerate(SIDES.items()):
        coarse = torch.randint(0, 256, (3, size[0] // 8, size[1] // 8), generator=generator)
        image = coarse.to(torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
        length = side * amount.height / Amount().height
        x, y = (torch.rand(2, generator=generator) * (torch.tensor(size[::-1]) - length)).tolist()
        box = torch.tensor([x, y, x + length, y + length])
        proposals = grid(box, size, amount.grid_steps)
        found.append(Subject(name, name, image, box, label, proposals.boxes, proposals.ious))
    return found


def with_peak(device: torch.device, work: Callable[[], Result]) -> tuple[Result, float]:
    """What some work returns, and MiB that it held at most beyond what was held before; on a CPU of the process."""
    synchronise()
    held = restart_peak(device)
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device) / MIB
    result = work()
    synchronise()
    most = peak_mb()
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device) / MIB
    return result, most - held


def training_row(
    config: Config, precision: str, channels_last: bool, device: torch.device, amount: Amount
) -> Row:
    """Seconds of a training step of two images, and the most memory that training holds beside the weights."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    detector = build_detector(config, CLASSES, pretrained=False).to(device).train()
    detector = detector.to(memory_format=layout)
    optimizer = torch.optim.SGD(parameter_groups(detector, config.training), LEARNING_RATE, 0.9)
    dtype = TRAINED_PRECISIONS[precision]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    subjects = made_up_subjects(amount)[:2]
    images = [(each.image.float() / 255).to(device) for each in subjects]
    targets = [
        {"boxes": each.box[None].to(device), "labels": torch.tensor([each.label], device=device)}
        for each in subjects
    ]

    def step() -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            total = torch.stack(list(detector(images, targets).values())).sum()
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        return total.detach()

    _, peak = with_peak(device, lambda: [step() for _ in range(WARMUP)])
    times = [seconds(step) for _ in range(amount.steps)]
    return {
        "seconds": statistics.median(times),
        "peak_mb": peak,
        "loss": float(step()),
        "scale": scaler.get_scale(),
    }


def backbone_row(detector: RCNN, folded: bool, amount: Amount) -> Row:
    """Seconds of an image's features, as the detector is or with its normalisation folded."""
    responder = Responder(detector, 512)
    if not folded:
        responder.fast_path = None
    extract = partial(responder.extract, made_up_subjects(amount)[0].image)
    with whole_float32():
        extract()
        _, peak = with_peak(detector.device, extract)
        times = [seconds(extract) for _ in range(amount.repeats)]
    return {"seconds": statistics.median(times), "peak_mb": peak}


def _answers(ask: Callable[[], Mapping[str, tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    return list(ask().values())


class Measuring(NamedTuple):
    """What the rows of one head have in common: its detector, and what each object's proposals plainly give."""

    detector: RCNN
    subjects: list[Subject]
    expected: dict[tuple[str, int | None], tuple[Tensor, Tensor]]

    def row(
        self, way: Way, precision: str, proposals: int | None, memory_mb: int, repeats: int
    ) -> Row:
        """Median seconds of an object, the most memory, and the largest differences from the plain way in float32."""
        times, peaks, scores_off, boxes_off = [], [], [0.0], [0.0]
        factored = mock.patch.object(
            FastFC, "_by_factors", autospec=True, side_effect=FastFC._by_factors
        )
        with way.taken(), whole_float32(), factored as by_factors:
            responder = Responder(self.detector, memory_mb, precision)
            if not way.fast:
                responder.fast_path = None
            for subject in self.subjects:
                boxes = subject.proposals[sampled(subject, proposals, 0)]
                features: Any = responder.extract(subject.image)
                ask = partial(responder, features, boxes, subject.label)
                (answer,), peak = with_peak(self.detector.device, partial(_answers, ask))
                scores, regressed = self.expected.setdefault((subject.name, proposals), answer)
                scores_off.append(float((answer[0] - scores).abs().max()))
                boxes_off.append(float((answer[1] - regressed).abs().max()))
                peaks.append(peak)
                times.append(statistics.median(seconds(ask) for _ in range(repeats)))
        return {
            "seconds": statistics.median(times),
            "peak_mb": max(peaks),
            "score_difference": max(scores_off),
            "box_difference": max(boxes_off),
            # Where the memory does not suffice for fc6 by factors, it is pooled by factors only.
            "taken": way.decided.get(FC6) is not always or by_factors.called,
        }


class Record:
    """What was measured, written after each row.

    Args:
        device: it is measured on.
        output: folder of device.json and device.md.
        limit: seconds after which no row begins.
    """

    def __init__(self, device: torch.device, output: Path, limit: float) -> None:
        self.output, self.limit, self.begun = output, limit, time.perf_counter()
        self.found: dict[str, Any] = {
            "machine": machine.description(device, torch.get_num_threads()),
            "device": device.type,
            "note": CPU_NOTE if device.type == "cpu" else "",
            "tests": {},
            "training": [],
            "backbone": [],
            "measuring": [],
            "left_out": [],
        }

    def add(self, part: str, names: Row, work: Callable[[], Row]) -> None:
        """Do a row's work and write it; where the time is over or memory does not suffice, say so."""
        title = f"{part}: {', '.join(map(str, names.values()))}"
        if time.perf_counter() - self.begun > self.limit:
            self.found["left_out"].append(f"{title}: no time")
        else:
            try:
                self.found[part].append(names | work())
            except torch.OutOfMemoryError:
                self.found["left_out"].append(f"{title}: out of memory")
        self.write()
        typer.echo(title, err=True)

    def write(self) -> None:
        """Write both files."""
        write_text(self.output / "device.json", json.dumps(self.found, indent=1) + "\n")
        write_text(self.output / "device.md", report(self.found) + "\n")


def count_tests(path: Path) -> dict[str, Any]:
    """How many tests there were and what became of them, from pytest's JUnit file."""
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in TEST_COUNTS}
    cases = [case for suite in suites for case in suite.iter("testcase")]
    fallen = [case for case in cases if {each.tag for each in case} & {"failure", "error"}]
    return counts | {"failed": [str(case.get("name")) for case in fallen]}


def quickest(rows: list[Row]) -> list[Row]:
    """Of each head, precision and number of proposals the quickest row."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in filter(lambda each: each["taken"], rows):
        key = row["head"], row["precision"], row["proposals"]
        best[key] = min(best.get(key, row), row, key=lambda each: float(each["seconds"]))
    return list(best.values())


def report(found: dict[str, Any]) -> str:
    """All tables in Markdown."""
    facts = [f"- {name}: {text}" for name, text in found["machine"].items()]
    parts = [found["note"], "\n".join(facts)]
    if found["tests"]:
        numbers = (f"{found['tests'][name]} {name}" for name in TEST_COUNTS)
        fallen = ", ".join(found["tests"]["failed"])
        parts.append(f"Tests: {', '.join(numbers)}{f' ({fallen})' if fallen else ''}.")
    for part in ("training", "backbone", "measuring"):
        if rows := found[part]:
            cells = [[_cell(value) for value in row.values()] for row in rows]
            parts.append(f"{part.capitalize()}\n\n" + table(list(rows[0]), cells))
    lines = [
        f"- quickest, {row['head']}-head, {row['precision']}, {row['proposals']} proposals: {row['way']}"
        f" ({_cell(row['seconds'])} s an object, {row['memory_mb']} MiB allowed)"
        for row in quickest(found["measuring"])
    ]
    parts.append("\n".join([*lines, *(f"- left out: {each}" for each in found["left_out"])]))
    return "\n\n".join(part for part in parts if part)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def command(
    output: Annotated[Path, typer.Option(help="Folder for device.json and device.md.")],
    device: str = "cuda",
    tiny: Annotated[bool, typer.Option(help="Small: a test of this script.")] = False,
    tests: Annotated[Path | None, typer.Option(help="pytest's JUnit file.")] = None,
    memory_mb: Annotated[list[int], typer.Option(help="Repeat it for several.")] = [512, 4096],  # noqa: B006
    limit: Annotated[float, typer.Option("--seconds", help="No row begins later.")] = 330,
) -> None:
    """Time training steps and measuring; write device.json, print its tables."""
    where, amount = resolve_device(device), TINY if tiny else Amount()
    record = Record(where, output, limit)
    if tests is not None:
        record.found["tests"] = count_tests(tests)
    # Frozen statistics of random weights would let activations grow from block to block.
    overrides = ["model.norm=batch", "model.non_local=false", *amount.overrides]
    for head in ("fc", "conv", "double-ext"):
        for precision in TRAINED_PRECISIONS:
            # torch has no gradient scaling on a CPU that is worth a test.
            if where.type == "cpu" and precision == "16-mixed":
                continue
            for channels_last in (False, True) if head == "double-ext" else (False,):
                config = load_preset("coco-r50", head, overrides)
                work = partial(training_row, config, precision, channels_last, where, amount)
                names: Row = {"head": head, "precision": precision, "channels_last": channels_last}
                record.add("training", names, work)
    subjects = made_up_subjects(amount)
    for head, ways in WAYS.items():
        config = settings("coco-r50", head).with_overrides(list(amount.overrides))
        detector = random_detector(config, CLASSES, subjects, 0).to(where)
        if head == "fc":
            for folded in (False, True):
                work = partial(backbone_row, detector, folded, amount)
                record.add("backbone", {"folded": folded}, work)
        measuring = Measuring(detector, subjects, {})
        for precision in MEASURED_PRECISIONS:
            for proposals in (None, amount.sample):
                for way in ways:
                    for memory in memory_mb[:1] if tiny else memory_mb:
                        names = {
                            "head": head,
                            "precision": precision,
                            "proposals": proposals or amount.grid_steps**4,
                            "way": way.name,
                            "memory_mb": memory,
                        }
                        work = partial(
                            measuring.row, way, precision, proposals, memory, amount.repeats
                        )
                        record.add("measuring", names, work)
    typer.echo(report(record.found))


if __name__ == "__main__":
    typer.run(command)
