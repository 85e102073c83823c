"""Commands under torchrun: one process speaks, and a mistake ends all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from tests.models.conftest import FEW, invoke, model
from tests.tiny_coco import write_coco
from tests.torchrun import torchrun

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no distributed package"
)


def without_places(found: Any, here: Path) -> Any:
    """A command's result without the folder that it was run in."""
    return json.loads(json.dumps(found).replace(str(here), "HERE"))


def test_a_command_says_the_same_from_two_processes(
    data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two detectors, all stages, with tables and figures: as from one process, and said once."""
    command = ("correlate", model("full"), model("sharp"), "--data", data, "--stage", "all", *FEW)
    (here / "together").mkdir()
    (here / "together" / "my_detectors.py").write_text((here / "my_detectors.py").read_text())
    done = torchrun("rethink_heads", *command, "--json", cwd=here / "together")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("my_detectors-full: 6/6 images (100%)") == 3
    assert done.stderr.count("compared on") == 0
    expected, _ = invoke(*command)
    found = without_places(json.loads(done.stdout), here / "together")
    assert found == without_places(expected, here)
    for path in found["files"]:
        assert (here / "together" / path).is_file()
    assert not list((here / "together" / "runs").rglob(".*"))


def test_a_mistake_that_one_process_meets_ends_all(tmp_path: Path, here: Path) -> None:
    write_coco(tmp_path / "broken", images=6)
    (tmp_path / "broken" / "val" / "4.png").write_bytes(b"no image")
    command = ("correlate", model("full"), "--data", tmp_path / "broken", *FEW)
    done = torchrun("rethink_heads", *command, cwd=here)
    assert done.returncode != 0
    assert done.stdout == ""
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot read image" in said
    # torchrun tells its own story of a process that ends so.
    ours = done.stderr.partition("torch/distributed/elastic")[0]
    assert "Traceback" not in ours
    assert "exitcode  : 2" in done.stderr
    assert "exitcode  : 1 " not in done.stderr
