"""What the command line prints: results on standard output; errors, messages and progress on standard error."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Iterator

from rethink_heads.distributed import is_first_process
from rethink_heads.errors import shorten

LONGEST_ERROR = 1000
LONGEST_WORD = 300
REPORTS = 10
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].replace("±", "+-")
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("rethink_heads", _spell_out)


def prepare_streams() -> None:
    """Have standard output and error take every text: a closed one loses it, an encoding that lacks a character
    gets it spelled out.

    Hours of measuring must not end in an encoding, and no file that is opened later may become standard output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free, which is this one.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rethink_heads")


def print_error(message: str) -> None:
    """Print why a command ends on standard error: a line of bounded length, whatever names are in it.

    Long values are cut by themselves, so that what is said about them stays.
    """
    text = _CONTROL.sub(" ", message)
    text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: shorten(word[0], LONGEST_WORD), text)
    print(shorten(text, LONGEST_ERROR), file=sys.stderr, flush=True)


def log(message: str) -> None:
    """Print one line on standard error, from the first process only."""
    if is_first_process():
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def redirect_stdout() -> Iterator[None]:
    """Send all that is written to standard output while working to standard error.

    Libraries report there, from Python and from C; a reader of ``--json`` must not see it. Of several processes, the
    others than the first say nothing at all.
    """
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        place = sys.stderr
        if not is_first_process():
            place = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        try:
            kept = os.dup(1)
            os.dup2(2 if is_first_process() else place.fileno(), 1)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 1)
        except OSError:
            # No such file descriptors, as in some notebooks: what Python writes is still redirected.
            pass
        stack.enter_context(contextlib.redirect_stdout(place))
        yield


class ProgressReport:
    """Reports on standard error how far some work is and how long it still takes.

    Use it as a context manager and call `advance` after each step:

        with ProgressReport("measuring", total=200, unit="images", counted="objects") as report:
            for image in images:
                report.advance(counted=len(image.objects))

    Args:
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
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[unit]}, {task.fields[speed]}"),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
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
