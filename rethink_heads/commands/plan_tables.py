"""What ``rethink-heads plan`` prints: counts, and tables of time, memory and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rethink_heads.config import StudyConfig
from rethink_heads.console import number, print_lines, print_table

if TYPE_CHECKING:
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.base import Detector
    from rethink_heads.planning import Counts, Estimate


@dataclass(frozen=True)
class Subject:
    """What is planned for: a detector and data with the same classes."""

    title: str
    detector: Detector
    dataset: CocoDataset
    config: StudyConfig
    seed: int


@dataclass(frozen=True)
class Plan:
    """What a study of a subject takes, one estimate for each number of proposals, from ``tried`` objects."""

    subject: Subject
    counts: Counts
    estimates: Sequence[Estimate]
    tried: int

    @property
    def grid(self) -> int:
        """Proposals of an object."""
        return self.subject.config.measuring.grid_steps**4


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """All that the tables say, and the numbers behind it, as JSON can hold it."""
    subject, counts = plan.subject, plan.counts
    return {
        "subject": subject.title,
        "data": str(subject.dataset.annotations_path),
        "heads": list(subject.detector.heads),
        "images": counts.images,
        "images_without_objects": counts.empty_images,
        "objects": {**counts.objects, "all": counts.all_objects},
        "grid": plan.grid,
        "precision": subject.config.measuring.precision,
        "device": _machine(subject.detector),
        "calibrated_on_objects": plan.tried,
        "estimates": [vars(each) for each in plan.estimates],
    }


def print_plan(plan: Plan) -> None:
    """Print what was counted, and the tables of time, memory and disk."""
    subject, counts, grid = plan.subject, plan.counts, plan.grid
    measuring = subject.config.measuring
    sizes = ", ".join(f"{number} {size}" for size, number in counts.objects.items())
    heads = ", ".join(subject.detector.heads)
    print_lines(
        f"{subject.title} (heads: {heads}) on {subject.dataset.annotations_path}",
        f"{counts.images} images with {counts.all_objects} objects ({sizes});"
        f" {counts.empty_images} images without; {grid} proposals an object, or fewer where the image ends",
        f"calibrated on {plan.tried} objects: {_machine(subject.detector)}, {measuring.precision}",
        "",
    )
    _print_time(plan)
    _print_space(plan)
    print_lines(
        "+- is two standard errors from how much the calibrating objects differ; a machine that has more or less to"
        " do than now is not in it. Devices are like the one at hand, a CPU being a machine of its own.",
        f"The memory has room for --memory-mb ({measuring.memory_mb} MiB), within which results are merged and"
        " analysed.",
    )


def _print_time(plan: Plan) -> None:
    from rethink_heads.progress import duration

    sizes = list(plan.counts.objects)
    print_table(
        "Time: seconds an object by its size, and of the whole study by number of devices",
        [
            "proposals",
            *(f"{size} (s)" for size in sizes),
            *(_devices(number) for number in plan.estimates[0].seconds),
            "+-",
        ],
        [
            [
                _proposals(each, plan.grid),
                *(_brief(each.object_seconds.get(size)) for size in sizes),
                *(duration(value) for value in each.seconds.values()),
                f"{each.uncertainty:.0%}",
            ]
            for each in plan.estimates
        ],
    )


def _print_space(plan: Plan) -> None:
    on_gpu = plan.estimates[0].device_memory_mb is not None
    columns = ["memory (MiB)", *(["GPU memory (MiB)"] if on_gpu else [])]
    print_table(
        "Memory of each process, and disk",
        ["proposals", *columns, "disk (MiB)", "while measuring (MiB)"],
        [
            [
                _proposals(each, plan.grid),
                number(each.memory_mb, 0),
                *([number(each.device_memory_mb, 0)] if on_gpu else []),
                number(each.disk_mb, 1),
                number(each.disk_while_measuring_mb, 1),
            ]
            for each in plan.estimates
        ],
    )


def _machine(detector: Detector) -> str:
    import torch

    if detector.device.type == "cuda":
        return torch.cuda.get_device_name(detector.device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def _proposals(of: Estimate, grid: int) -> str:
    if of.proposals is None:
        return f"{grid} (all)"
    return f"{of.proposals} (1/{grid / of.proposals:.3g})"


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _brief(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g}"
