"""What goes wrong during training: one sentence for a user's mistake, and nothing lost."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch

from rethink_heads.errors import UserError
from rethink_heads.runs import Run
from rethink_heads.training.checkpointing import WholeFiles
from rethink_heads.training.train import train
from tests.training.recorded import tiny_config


def test_a_truncated_image_is_one_sentence_from_a_loaders_process(
    data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for image in (copy / "train").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    config = tiny_config(copy, "fc", "training.workers=1")
    with pytest.raises(UserError) as caught:
        train(config, Run.create(tmp_path / "run", config), "cpu")
    message = str(caught.value)
    assert message.startswith("cannot read image")
    assert "Traceback" not in message
    assert "\n" not in message


def full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"whole")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*/last\.ckpt: No space left on device"):
        WholeFiles().save_checkpoint({}, path)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
