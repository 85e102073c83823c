"""The reference pages: every command and public name has its place, and what the pages show is what commands print."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import rethink_heads
from rethink_heads.cli import COMMANDS
from rethink_heads.config import load_preset
from tests.command_line import call, untrained_run
from tests.tiny_coco import SMALL_SETTINGS, write_coco

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "commands"
RECORDED = sorted((PAGES / "recorded").glob("*.txt"))
IMAGES = 4
TRAINING = ["training.max_iterations=2", "training.validate_every=2", "training.batch_size=2"]
# A ResNet of small width, that detectron2 has, too.
RESNET = ["model.backbone=resnet18", "model.pretrained=false", "model.fpn_channels=4"]
RESNET += ["model.fc_width=8", "model.conv_width=8", "model.conv_bottleneck=4"]


def test_every_command_has_a_page_with_its_options() -> None:
    index = (PAGES / "index.md").read_text()
    for name in COMMANDS:
        page = (PAGES / f"{name}.md").read_text()
        assert f"\n```{{options}} {name}\n```\n" in page
        assert f"\n{name}\n" in index
        assert "## How to read it" in page
        assert "## Common mistakes" in page


def test_every_public_name_is_on_the_page_of_its_group() -> None:
    groups = re.findall(r"^```\{public-names\} (.+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert groups == list(rethink_heads._ENTRIES)
    named = [name for group in groups for name, _, _ in rethink_heads._ENTRIES[group]]
    assert sorted(named) == [name for name in dir(rethink_heads) if not name.startswith("_")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of untrained detectors by the names that the pages have, and data for them."""
    made = tmp_path_factory.mktemp("documented")
    for split in ("train", "val"):
        write_coco(made / "data", split, images=IMAGES)
    source = f"data.source={made / 'data'}"
    for name, head in {"both": "double-ext", "conv": "conv"}.items():
        own = [*SMALL_SETTINGS, source, "model.score_threshold=0.01"]
        untrained_run(made / "runs" / name, load_preset("shapes-tiny", head, own))
    shutil.copytree(DOCS.parent / "figures" / "bccd-sweeps", made / "figures" / "bccd-sweeps")
    untrained_run(
        made / "runs" / "resnet", load_preset("coco-r50", "double", [*SMALL_SETTINGS, *RESNET])
    )
    return made


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
@pytest.mark.usefixtures("tables_only")
def test_what_is_recorded_is_printed_in_that_form(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    command, *recorded = path.read_text().splitlines()
    _, *arguments = shlex.split(command.removeprefix("$ "))
    if arguments[0] == "train":
        arguments = [each for each in arguments if "=" not in each]
        arguments += [*SMALL_SETTINGS, *TRAINING, f"data.source={folder / 'data'}"]
    if arguments[0] == "import" and not (folder / "exported").exists():
        call("export", "--run", "runs/resnet", "--output", "exported")
    printed = call(*arguments).splitlines()
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
