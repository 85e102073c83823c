"""A sweep under torchrun: trained together, read together, written by one process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch.distributed

from rethink_heads.sweeps.description import load_sweep
from rethink_heads.sweeps.plan import make_plan
from rethink_heads.sweeps.runner import run_sweep
from tests.sweeps.conftest import SETTINGS as ALL_SETTINGS
from tests.torchrun import torchrun

# Read on the three images that are trained on.
SETTINGS = [*ALL_SETTINGS, "data.test_split=train"]
TWO = """
name: two
title: Two structures
points:
  - {label: single-fc, title: Single-FC, head: fc}
  - {label: single-conv, title: Single-Conv, head: conv}
"""

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no distributed package"
)


def test_the_table_is_that_of_one_process(data: Path, tmp_path: Path) -> None:
    description, output = tmp_path / "two.yaml", tmp_path / "out"
    description.write_text(TWO)
    options = ["--preset", "shapes-tiny", "--data", data, "--output", output, "--seed", 3]
    done = torchrun("rethink_heads", "sweep", description, *options, "--device", "cpu", *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("## Two structures") == 1
    assert done.stderr.count("training: iteration 2/2") == 2
    assert "GLOBAL_RANK" not in done.stderr
    together = (output / "table.csv").read_bytes()

    for kept in [output / "precision", *output.glob("*/measurements")]:
        shutil.rmtree(kept)
    plan = make_plan(
        load_sweep(description), output, "shapes-tiny", SETTINGS, seeds=(3,), data=str(data)
    )
    assert [each.state for each in plan.trainings.values()] == ["done", "done"]
    result = run_sweep(plan, "cpu", None)  # type: ignore[arg-type]
    assert result.failures == {}
    assert (output / "table.csv").read_bytes() == together
    assert set(pd.read_csv(output / "table.csv")["point"]) == {"single-fc", "single-conv"}
