"""How long training and measuring take beside other busy processes, by how OpenMP's threads wait for each other.

Every setting has a process of its own, which waits to be asked for one piece of work; so all settings are timed in turn
within one run, alone and beside processes that only count. Ratios of one turn are what is told, as other work on the
machine falls on all settings alike.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from rethink_heads.data.shapes import shapes_root

# Before torch, as the command line does: it sets how threads wait.
from rethink_heads.data.sources import split_paths

SETTINGS: dict[str, dict[str, str]] = {
    # libgomp's own: 300,000 turns of its waiting loop, some milliseconds, before a thread sleeps.
    "libgomp's own": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 300": {"GOMP_SPINCOUNT": "300"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 30,000": {"GOMP_SPINCOUNT": "30000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "rethink_heads": {},
}
BASE = "libgomp's own"
OPENMP = ("OMP_", "GOMP_", "KMP_", "MKL_")
WORKS = ("training", "training, 0 workers", "training, 2 workers", "measuring")
STEPS = 2


@dataclass
class Worker:
    """The process of one setting."""

    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, variables: dict[str, str], work: str, data: Path) -> Worker:
        inherited = {name: v for name, v in os.environ.items() if not name.startswith(OPENMP)}
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.busy", "work", work, str(data)],
            env={**inherited, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return cls(process)

    def time(self) -> float:
        """Seconds of one piece of the work, as the process itself measures them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute all the time, one thread each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compare(
    work: str, settings: list[str], busy: list[int], repeats: int, data: Path
) -> dict[int, dict[str, list[float]]]:
    """By number of busy processes and setting: seconds of one piece of the work in each turn."""
    workers: dict[str, Worker] = {}
    found: dict[int, dict[str, list[float]]] = {
        count: {name: [] for name in settings} for count in busy
    }
    try:
        for name in settings:
            workers[name] = Worker.start(SETTINGS[name], work, data)
        for worker in workers.values():
            # The first piece is slower, of each.
            worker.time()
        for _ in range(repeats):
            for count in busy:
                with busy_processes(count):
                    for name, worker in workers.items():
                        found[count][name].append(worker.time())
                print(
                    work,
                    count,
                    {n: round(t[-1], 2) for n, t in found[count].items()},
                    file=sys.stderr,
                )
    finally:
        for worker in workers.values():
            worker.end()
    return found


def table(work: str, found: dict[int, dict[str, list[float]]]) -> str:
    """Medians of the ratios to libgomp's own setting in the same turn, and that setting's seconds."""
    lines = [
        f"| {work} | " + " | ".join(f"{count} busy" for count in found) + " |",
        "| --- |" + " ---: |" * len(found),
    ]
    for name in next(iter(found.values())):
        cells = []
        for times in found.values():
            if name == BASE:
                cells.append(f"{statistics.median(times[name]):.2f} s")
                continue
            ratios = [own / base for own, base in zip(times[name], times[BASE], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def piece_of(work: str, data: Path) -> Any:
    """A function that does one piece: training steps of the demo's detector, or the measuring of an image."""
    import torch

    from rethink_heads.config import load_preset
    from rethink_heads.data.coco import CocoDataset
    from rethink_heads.detectors.rcnn import build_detector
    from rethink_heads.measure.runner import ObjectMeasurer
    from rethink_heads.training.data import DetectionData

    workers = {"training, 0 workers": 0, "training, 2 workers": 2}.get(work, 1)
    config = load_preset(
        "shapes-tiny", "double-ext", [f"data.source={data}", f"training.workers={workers}"]
    )
    dataset = CocoDataset(*split_paths(config.data, "train"))
    torch.manual_seed(0)
    detector = build_detector(config, dataset.class_names, pretrained=False)
    if work == "measuring":
        measuring = config.measuring.model_copy(update={"objects_per_image": 1})
        measurer = ObjectMeasurer(detector.eval(), dataset, "detector", measuring, 0)
        sample = dataset[dataset.indices_with_objects()[0]]
        return lambda: measurer.measure(sample)
    module = DetectionData(dataset, dataset, config.training, 0)
    module.trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1)  # type: ignore[assignment]
    batches = iter(module.train_dataloader())
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
    detector.train()

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            torch.stack(list(detector(*next(batches)).values())).sum().backward()
            optimizer.step()

    return steps


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(hidden=True)
def work(name: str, data: Path) -> None:
    """Do a piece of work for every line of standard input, and tell its seconds."""
    piece = piece_of(name, data)
    from benchmarks.timing import seconds

    for _ in sys.stdin:
        print(seconds(piece), flush=True)


@app.command()
def run(
    setting: Annotated[list[str], typer.Option(help="Of the table's lines.")] = list(SETTINGS),  # noqa: B006
    what: Annotated[list[str], typer.Option(help="Which work.")] = list(WORKS),  # noqa: B006
    busy: Annotated[list[int], typer.Option(help="Busy processes beside.")] = [0, 1, 2, 3],  # noqa: B006
    repeats: Annotated[int, typer.Option(help="Turns.")] = 5,
) -> None:
    """Time the settings in turn; print a table for each work."""
    settings = list(dict.fromkeys([BASE, *setting]))
    with tempfile.TemporaryDirectory() as folder:
        data = shapes_root(cache=Path(folder), train_images=64, val_images=1)
        for name in what:
            print(table(name, compare(name, settings, busy, repeats, data)) + "\n", flush=True)


if __name__ == "__main__":
    app()
