"""Progress of long work: a bar on a terminal, a plain line every tenth of the way elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rethink_heads.distributed import is_first_process

REPORTS = 10


class ProgressReport:
    """Reports on standard error how far some work is and how long it still takes.

    Use it as a context manager and call `advance` after each step:

        with ProgressReport("measuring", total=200, unit="images", counted="objects") as report:
            for image in images:
                report.advance(counted=len(image.objects))

    Args:
        title: what is being done.
        total: number of steps.
        unit: name of the steps.
        counted: name of things counted beside the steps, whose speed is shown; None: the steps'.
        start: steps done by an earlier run. They do not enter the speed.
        enabled: False for silence; processes other than the first are always silent.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        *,
        counted: str | None = None,
        start: int = 0,
        enabled: bool = True,
    ) -> None:
        self.title, self.total, self.unit, self.start = title, total, unit, start
        self.counted_name = counted or unit
        self.counts_apart = counted is not None
        self.done, self.counted = start, 0
        self.enabled = enabled and is_first_process()
        self._started = time.monotonic()
        self._bar = None
        if self.enabled and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}, {task.fields[speed]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> ProgressReport:
        self._started = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(
                self.title, total=self.total, completed=self.start, unit=self.unit, speed=""
            )
        elif self.enabled and self.start:
            self._print(f"{self.start}/{self.total} {self.unit} done by an earlier run")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int = 1, counted: int | None = None) -> None:
        """Count `steps` done, and `counted` of the things counted beside them (None: the steps)."""
        before = self.done
        self.done += steps
        self.counted += steps if counted is None else counted
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, speed=self._speed())
        elif self.enabled:
            tenths = [REPORTS * done // max(self.total, 1) for done in (before, self.done)]
            if tenths[0] < tenths[1]:
                self._print(self.line())

    def line(self) -> str:
        """Return the state in words: `20/200 images (10%), 63 objects, 1.2 objects/s, 3 min 20 s left`."""
        parts = [f"{self.done}/{self.total} {self.unit} ({100 * self.done // max(self.total, 1)}%)"]
        if self.counts_apart:
            parts.append(f"{self.counted} {self.counted_name}")
        parts.append(self._speed())
        fresh = self.done - self.start
        if fresh and self.done < self.total:
            left = self._elapsed() / fresh * (self.total - self.done)
            parts.append(f"{duration(left)} left")
        else:
            parts.append(f"took {duration(self._elapsed())}")
        return ", ".join(parts)

    def _elapsed(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)

    def _speed(self) -> str:
        return f"{self.counted / self._elapsed():.3g} {self.counted_name}/s"

    def _print(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a duration in words: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
