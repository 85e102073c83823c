"""Command lines: options with values beyond reason, and output that cannot be written."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from rethink_heads.cli import main
from rethink_heads.config import load_preset
from rethink_heads.detectors.rcnn import build_detector
from rethink_heads.detectors.rcnn.detector import save_detector
from rethink_heads.runs import Run
from tests.fuzz.harness import Case, WrongError, check_message, shortened
from tests.tiny_coco import CLASSES, SMALL_SETTINGS, write_coco

HERE = "FOLDER"
DATA = ["--run", f"{HERE}/run", "--data", f"{HERE}/data", "--device", "cpu", "--seed", "3"]
FEW = "--max-images 1 --objects-per-image 1 --grid-steps 3 --proposals-per-object 20"
MEASURED = [*DATA, *FEW.split()]
GOOD = {
    "evaluate": ["evaluate", *DATA, "--max-images", "2", "--error-iou", "0.5", "--errors"],
    "correlate": ["correlate", *MEASURED, "--precision", "float32"],
    "regress": ["regress", *MEASURED],
    "sensitivity": ["sensitivity", *MEASURED],
    "describe": ["describe", "shapes-tiny", "--head", "fc", "--classes", "3", "--frame", "64x96"],
    "plan": ["plan", *MEASURED, "--devices", "1"],
    "figures": ["figures", "--run", f"{HERE}/run"],
    "import": ["import", f"{HERE}/data/val/1.png", "--run", f"{HERE}/new", "--layout", "detectron2"],
    "export": ["export", "--run", f"{HERE}/run", "--output", f"{HERE}/new"],
    "sweep": ["sweep", "depth", "--dry-run", "--preset", "shapes-tiny", "--output", f"{HERE}/sweep", "--seed", "0"],
    "train": ["train", "--preset", "shapes-tiny", "--run", f"{HERE}/run", "--data", f"{HERE}/data", "--seed", "1"],
}  # fmt: skip
# What these print is compared; the others end in a refusal, or take long.
COMPARED = ("evaluate", "correlate", "describe")
DIGITS = ["9" * 400, "-" + "9" * 400, "9" * 5000]
NO_COUNT = ["0", "-1", "abc", "", "1.5", "nan", "inf", "1e3", "0x10", "½", "\udcff", *DIGITS]
NO_NAME = ["zork", "", "x" * 9999, "\udcff", "\x1b[31m", "fc,conv", "../..", "é"]
NO_PATH = ["/nowhere", "x" * 300, "x/" * 3000, "\udcff", "\x1b[31m", "~nobody/x"]
NO_PATH += [f"{HERE}/data/val/1.png/x"]
BAD = {
    **dict.fromkeys(("--max-images", "--objects-per-image", "--memory-mb", "--devices", "--classes"), NO_COUNT),
    "--proposals-per-object": NO_COUNT,
    "--grid-steps": [*NO_COUNT, "2", "4", "9999", str(10**12 + 1)],
    "--seed": [*NO_COUNT[1:], str(2**32)],
    "--error-iou": ["0", "1.5", "-1", "nan", "abc", *DIGITS[1:]],
    "--frame": ["64", "0x0", "axb", "64x", "9999999x9999999", f"64x{DIGITS[0]}", "²x²", "-1x5"],
    **dict.fromkeys(("--device", "--precision", "--head", "--split", "--layout", "--preset"), NO_NAME),
    **dict.fromkeys(("--run", "--data", "--annotations", "--images", "--class-map", "--model"), NO_PATH),
}  # fmt: skip
OVERRIDES = [
    *("model.fc_width=1000000000000", "model.min_size=1", "measuring.grid_steps=9999", "training.batch_size=0"),
    *("nothing=1", "model.fc_width", "=", "model={a: &a [*a]}", "training.learning_rate=nan", "é=\udcff"),
    *("model.conv_width=" + DIGITS[0], "training.milestones=[1, 2001-99-99]", "model.anchor_sizes=[1]"),
]  # fmt: skip
# BROKEN: whoever read standard output has gone; None: there is none.
OUTPUTS = ["utf-8", "ascii", "latin-1", "cp1252", "BROKEN", None]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run(words: list[str], folder: Path, output: str | None = "utf-8") -> Ended:
    """Run the command line in this process as the shell would, in a folder of its own."""
    raw, encoding = io.BytesIO(), "utf-8" if output in (None, "BROKEN") else output
    out: io.TextIOWrapper | None = io.TextIOWrapper(raw, encoding)
    kept = out
    if output == "BROKEN":
        reading, writing = os.pipe()
        os.close(reading)
        out = os.fdopen(writing, "w", encoding="utf-8")
    elif output is None:
        out = None
    err = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    cache = {"RETHINK_HEADS_CACHE": str(folder / "cache"), "HOME": str(folder), "COLUMNS": "200"}
    # Handlers of the last command write to what is closed by now.
    logging.getLogger().handlers.clear()
    with (
        mock.patch.object(
            sys, "argv", ["rethink-heads", *(w.replace(HERE, str(folder)) for w in words)]
        ),
        mock.patch.multiple(sys, stdout=out, stderr=err),
        mock.patch.dict(os.environ, cache),
        contextlib.chdir(folder),
    ):
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
    if output == "BROKEN":
        with contextlib.suppress(BrokenPipeError, ValueError):
            out.close()
    kept.flush()
    err.flush()
    text = err.buffer.getvalue().decode(encoding, "replace")  # type: ignore[attr-defined]
    return Ended(code, raw.getvalue().decode(encoding, "replace"), text)


@functools.cache
def run_files() -> dict[str, bytes]:
    """The files of a run with an untrained detector."""
    # No data of its own: the generated set would be made for it.
    config = load_preset("shapes-tiny", "fc", [*SMALL_SETTINGS, "data.source=/nowhere"])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", config)
        save_detector(build_detector(config, CLASSES, pretrained=False), config, run.detector_path)
        files = [path for path in run.path.rglob("*") if path.is_file()]
        return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def prepare(folder: Path) -> None:
    """A run with an untrained detector and a data set of two images."""
    for name, data in run_files().items():
        (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / name).write_bytes(data)
    write_coco(folder / "data", images=2)


def anywhere(text: str, folder: Path) -> str:
    """What was printed, without the folder and the names that depend on it."""
    return re.sub("val-[0-9a-f]{8}", "val-HASH", text.replace(str(folder), HERE))


@functools.cache
def printed(name: str) -> str:
    """What a good command prints."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        ended = run([*GOOD[name], "--json"], Path(folder))
        assert ended.code == 0, ended.err
        return anywhere(ended.out, Path(folder))


def changed(case: Case, name: str) -> tuple[list[str], bool, str | None]:
    """A command line with a mistake or in other words, whether it must be refused, and the output's encoding."""
    words = list(GOOD[name])
    options = [place for place, word in enumerate(words) if word in BAD]
    way = case.pick(["value", "value", "value", "override", "output", "words", "lost", "add"])
    if way == "value" and options:
        place = case.pick(options)
        words[place + 1] = case.pick(BAD[words[place]])
        # train makes its folders, and prepares a run of any name.
        makes = name in ("train", "sweep", "import", "export", "figures")
        return words, not (makes and words[place] in ("--run", "--output", "--data")), "utf-8"
    if way == "override":
        takes = name in ("describe", "train", "import", "sweep")
        return [*words, case.pick(OVERRIDES)], takes, "utf-8"
    if way == "words":
        # The same in another order and spelling.
        pairs = [words[place : place + 2] for place in options]
        rest = [w for n, w in enumerate(words) if n not in options and n - 1 not in options]
        case.random.shuffle(pairs)
        joined = [["=".join(pair)] if case.chance(0.5) else pair for pair in pairs]
        return [*rest, *(word for pair in joined for word in pair)], False, "utf-8"
    if way == "lost" and options:
        # Without --run the demo would be trained.
        place = case.pick([place for place in options if words[place] != "--run"] or [0])
        return words[:place] + words[place + 2 :], False, "utf-8"
    if way == "add":
        more = ["--zork", "-x", "--max-images", "--help", "--version", "--json=1"]
        option = case.pick([*more, *BAD])
        return [*words, option], option != "--help", "utf-8"
    return words, False, case.pick(OUTPUTS)


def check(case: Case) -> None:
    """Run a command line: it ends with code 0 or 2, a line or two of words, and the right numbers."""
    name = case.pick(list(GOOD))
    words, refused, output = changed(case, name)
    as_json = name in COMPARED
    case.input = f"{name}: {' '.join(shortened(word, 60) for word in words[1:])}, output {output}"
    case.announce(case.input)
    expected = printed(name) if as_json else ""
    prepare(case.folder)
    ended = run([*words, *["--json"] * as_json], case.folder, output)
    if "Traceback" in ended.err + ended.out:
        raise WrongError(f"a traceback is printed: {ended.err[-600:]}")
    if ended.code not in ((0, 1, 2) if output in ("BROKEN", None) else (0, 2)):
        raise WrongError(f"exit code {ended.code}: {ended.err[-300:]}")
    if ended.code == 2:
        if output not in ("BROKEN", None) and words == GOOD[name] and as_json:
            raise WrongError(f"refused what is good: {ended.err[-300:]}")
        said = [line for line in ended.err.splitlines() if "rror" in line or "nvalid" in line]
        check_message("\n".join(said) or ended.err)
        if output == "utf-8" and ended.out and as_json:
            raise WrongError(f"refused, and printed a result: {ended.out[:200]}")
    elif refused:
        raise WrongError(f"a mistake is not refused: {ended.out[:200]}{ended.err[-200:]}")
    # The same words in another order or another encoding.
    same = sorted("=".join(words).split("=")) == sorted("=".join(GOOD[name]).split("="))
    if ended.code == 0 and as_json and same and output in ("utf-8", "ascii", "latin-1", "cp1252"):
        case.judge(anywhere(ended.out, case.folder), expected)
