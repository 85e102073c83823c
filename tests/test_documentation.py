"""The documentation: no dead link on a code host, a place for every command and name, commands and code that run.

Commands on runs and files run as they are shown, trainings and sweeps made small; Python blocks run, too. What the
site's build itself runs (blocks ``{run}`` and cells) is not run again.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rethink_heads as rh
from rethink_heads.cli import COMMANDS, load_command
from rethink_heads.config import load_preset
from rethink_heads.detectors.base import HeadOutput
from tests.command_line import call, small_run, untrained_run
from tests.tiny_coco import SMALL_SETTINGS, write_coco

ROOT = Path(__file__).parents[1]
OUTSIDE = ("README.md", "RESULTS.md", "CHANGELOG.md", "figures/README.md", "benchmarks/README.md")
PAGES = [*(ROOT / name for name in OUTSIDE), *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "commands"
RECORDED = sorted((REFERENCE / "recorded").glob("*.txt"))
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#:]*)(?:#([^)\s]+))?\)")
# They need nothing but runs and files.
RUN_HERE = (
    "correlate",
    "regress",
    "sensitivity",
    "objects",
    "evaluate",
    "diagnose",
    "report",
    "figures",
)
# Options of pip, torchrun, benchmarks and our tests.
OTHER_PROGRAMS = {
    "--no-build-isolation",
    "--nnodes",
    "--nproc_per_node",
    "--set",
    "--fuzz-cases",
}
# What the loops that pages show go through.
LOOPED = {"$head": "fc", "$seed": "0"}
IMAGES = 16
TRAINING = ["training.max_iterations=2", "training.validate_every=2", "training.batch_size=2"]
TRAINING += ["training.precision=32-true", "model.backbone=tiny", "model.backbone_weights=none"]
# A ResNet of small width, that detectron2 has, too.
RESNET = ["model.backbone=resnet18", "model.pretrained=false", "model.fpn_channels=4"]
RESNET += ["model.fc_width=8", "model.conv_width=8", "model.conv_bottleneck=4"]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Of the headings, as a code host and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", t)) for t in titles]
    return {title.strip().lower().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    dead = []
    for target, anchor in LINK.findall(prose(page)):
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(f"{target}#{anchor}")
    assert dead == []


def commands(page: Path) -> Iterator[str]:
    """The command lines that a page shows, in blocks and between backticks, those over several lines as one.

    Of a loop of the shell the first round, of torchrun what it runs.
    """
    text = page.read_text(encoding="utf-8")
    for kind, block in FENCE.findall(text):
        if kind in ("", "bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                shown = re.sub(r"^torchrun .* rethink_heads ", "rethink-heads ", line.strip())
                if shown.startswith("rethink-heads "):
                    shown = re.sub(r"\$\w+", lambda name: LOOPED[name[0]], shown)
                    yield " ".join(shown.partition(" # ")[0].split())
    for line in re.findall(r"`(rethink-heads [a-z]+ [^`]*--[^`]*)`", FENCE.sub("", text)):
        yield " ".join(line.split())


def examples() -> Iterator[str]:
    """Those with which each command's help ends."""
    for name in COMMANDS:
        epilog = load_command(name).epilog
        yield from re.findall(r"rethink-heads .*", epilog)


SHOWN = sorted({line for page in PAGES for line in commands(page)} | set(examples()))


def arguments(line: str) -> list[str]:
    return shlex.split(line)[1:]


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_has_options_that_there_are(line: str) -> None:
    name, *rest = arguments(line)
    if name.startswith("--"):
        return
    load_command(name).make_context(name, rest)
    if "--preset" in rest:
        head = rest[rest.index("--head") + 1] if "--head" in rest else "fc"
        load_preset(rest[rest.index("--preset") + 1], head, [each for each in rest if "=" in each])


def test_options_in_the_text_are_of_some_command() -> None:
    known = {
        name
        for command in COMMANDS
        for parameter in load_command(command).params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"--help", "--install-completion", *OTHER_PROGRAMS}
    named = {
        (option, page.name)
        for page in PAGES
        # Its commands are the benchmarks' own.
        if page.parent.name != "benchmarks"
        for code in re.findall(r"`([^`]+)`", prose(page))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z_-]*", code)
    }
    assert len(named) > 20
    assert [each for each in sorted(named) if each[0] not in known] == []


def runs_here(line: str) -> bool:
    """Whether a command needs nothing but runs and files, which :func:`folder` has."""
    name, *rest = arguments(line)
    return name in RUN_HERE and not {"--model", "--redraw", "--sweep", "--data"} & set(rest)


# One of those that differ in their runs and in where results go alone.
RUN = list(
    {re.sub(r"--(run|output) \S+ ?", "", line): line for line in SHOWN if runs_here(line)}.values()
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, ground truth, results files and figures by the names that pages give them."""
    made = tmp_path_factory.mktemp("shown")
    content = write_coco(made / "data", "val", images=IMAGES)
    for split in ("train", "test", "train2017", "val2017"):
        write_coco(made / "data", split, images=4)
    for name in {"both", *re.findall(r"runs/([\w-]+)", " ".join(RUN))}:
        head = "fc" if "fc" in name else "conv" if "conv" in name else "double-ext"
        small_run(made / "runs" / name, head, made / "data", "data.test_split=val")
    untrained_run(
        made / "runs" / "resnet", load_preset("coco-r50", "double", [*SMALL_SETTINGS, *RESNET])
    )
    shutil.copytree(ROOT / "figures" / "bccd-sweeps", made / "figures" / "bccd-sweeps")
    (made / "val2017").symlink_to(made / "data" / "val")
    for name in set(re.findall(r"--data (\S+)", " ".join(SHOWN))):
        (made / name).symlink_to(made / "data")
    shutil.copyfile(
        made / "data" / "annotations" / "instances_val.json", made / "instances_val2017.json"
    )
    keys = ("image_id", "category_id", "bbox")
    found = [{key: entry[key] for key in keys} | {"score": 0.9} for entry in content["annotations"]]
    for name in ("results.json", "old.json", "new.json", "old.bbox.json", "new.bbox.json"):
        (made / name).write_text(json.dumps(found))
    shutil.copyfile(made / "results.json", made / "coco_instances_results.json")
    # Figures are drawn of what was measured.
    for line in RUN:
        if arguments(line)[0] == "figures":
            runs = [made / name for name in re.findall(r"runs/[\w-]+", line)]
            call("correlate", *(part for run in runs for part in ("--run", run)))
    return made


@pytest.mark.parametrize("line", RUN)
@pytest.mark.usefixtures("tables_only")
def test_a_shown_command_runs(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert call(*arguments(line))


def makes_new(line: str) -> bool:
    """Whether a command needs a preset and data alone."""
    name, *rest = arguments(line)
    on_runs = "--use" in rest or ("--run" in rest and "--preset" not in rest)
    return name in ("train", "sweep", "plan", "describe") and not on_runs


def subject(line: str) -> tuple[str, str, str]:
    """What is done, and by which preset."""
    name, *rest = arguments(line)
    return name, rest[0], rest[rest.index("--preset") + 1] if "--preset" in rest else ""


NEW = list({subject(line): line for line in SHOWN if makes_new(line)}.values())


@pytest.mark.parametrize("line", NEW)
def test_what_is_made_anew_runs_when_small(
    line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    name, *rest = (each for each in arguments(line) if "=" not in each)
    for option in ("--run", "--output"):
        if option in rest:
            rest[rest.index(option) + 1] = str(tmp_path / "made")
    if name == "train" and "--data" not in rest:
        rest += ["--data", "data"]
    # Sweeps are trained in their own tests.
    small = {"sweep": ["--dry-run"], "train": SMALL_SETTINGS + TRAINING}
    assert call(name, *rest, *small.get(name, SMALL_SETTINGS))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda page: page.name
)
def test_python_that_a_page_shows_runs(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    call("correlate", "--run", "runs/demo")
    detector = rh.load_detector(rh.Run.open("runs/demo").detector_path)
    # What the text around a block has made.
    names = {
        "torch": torch,
        "rh": rh,
        "HeadOutput": HeadOutput,
        "detector": detector,
        "model": detector,
        "class_names": detector.class_names,
        "dataset": rh.CocoDataset("data/annotations/instances_train.json", "data/train"),
        "annotations": "data/annotations/instances_train.json",
        "images": "data/train",
        "image": torch.zeros(3, 48, 64, dtype=torch.uint8),
        "boxes": torch.tensor([[4.0, 4, 30, 40]]),
    }
    for kind, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            exec(block, names)


def test_a_reader_can_have_the_files_of_the_examples(tmp_path: Path) -> None:
    line = "python -m site_extension.example example"
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    assert f"\nPYTHONPATH=.:docs {line}\n" in text
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'docs'}"}
    subprocess.run(
        [sys.executable, *shlex.split(line)[1:]], cwd=tmp_path, env=environment, check=True
    )
    text += (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\b(\w+\.json)\b", text)) - {"instances_val2017.json"}
    assert shown == {path.name for path in (tmp_path / "example").iterdir()} - {
        "sound.json",
        "unsorted.json",
    }


def test_every_command_has_a_page_with_its_options() -> None:
    index = (REFERENCE / "index.md").read_text()
    for name in COMMANDS:
        page = (REFERENCE / f"{name}.md").read_text()
        assert f"\n```{{options}} {name}\n```\n" in page
        assert f"\n{name}\n" in index
        assert "## How to read it" in page
        assert "## Common mistakes" in page


def test_every_public_name_is_on_the_page_of_its_group() -> None:
    groups = re.findall(
        r"^```\{public-names\} (.+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE
    )
    assert groups == list(rh._ENTRIES)
    named = [name for group in groups for name, _, _ in rh._ENTRIES[group]]
    assert sorted(named) == [name for name in dir(rh) if not name.startswith("_")]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
@pytest.mark.usefixtures("tables_only")
def test_what_is_recorded_is_printed_in_that_form(
    path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    command, *recorded = path.read_text().splitlines()
    words = arguments(command.removeprefix("$ "))
    if words[0] == "train":
        # Beside the run that has that name already.
        monkeypatch.chdir(tmp_path)
        words = [each for each in words if "=" not in each]
        words += [*SMALL_SETTINGS, *TRAINING, f"data.source={folder / 'data'}"]
    if words[0] == "import" and not (folder / "exported").exists():
        call("export", "--run", "runs/resnet", "--output", "exported")
    printed = call(*words).splitlines()
    before, now = dict(tables(recorded)), dict(tables(printed))
    # Where nothing is decided there are no differences to show, and no levels to name.
    assert {title for title in before if not title.startswith("Differences")} <= set(now)
    for title, columns in now.items():
        assert set(columns) <= set(before[title])
    if not now:
        assert form(printed[-1]) == form(recorded[-1])


def tables(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Title and columns of the tables in what was printed."""
    for number, line in enumerate(lines):
        if line and set(line) == {"─"}:
            yield form(lines[number - 2]), re.split(r" {2,}", lines[number - 1].strip())


def form(line: str) -> str:
    """The line without its numbers, which are other ones of other inputs."""
    return re.sub(r"\d+(\.\d+)?", "#", line)
