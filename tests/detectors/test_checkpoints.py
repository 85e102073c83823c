"""Detectors on disk: the same detections again, and one clear sentence when a file is not one."""

from __future__ import annotations

import hashlib
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.detector import (
    load_detector,
    save_detector,
    saved_class_names,
    saved_config,
)
from rethink_heads.errors import UserError
from tests.tiny_coco import CLASSES, SMALL_SETTINGS


def config_of(head: str, *overrides: str) -> Config:
    return load_preset("shapes-tiny", head, [*SMALL_SETTINGS, *overrides])


def image_of(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=generator)


def detector_of(config: Config) -> RCNN:
    """A detector whose batch statistics are no longer the initial ones, in evaluation mode."""
    torch.manual_seed(0)
    detector = build_detector(config, CLASSES)
    target = {"boxes": torch.tensor([[5.0, 5.0, 30.0, 30.0]]), "labels": torch.tensor([1])}
    with torch.no_grad():
        for seed in range(3):
            detector([image_of(seed).float() / 255], [target])
    return detector.eval()


@pytest.mark.parametrize("head", ["fc", "double-ext"])
def test_a_detector_comes_back_as_it_was(head: str, tmp_path: Path) -> None:
    config = config_of(head, "model.score_threshold=0.0")
    detector = detector_of(config)
    path = tmp_path / "folder" / "detector.pt"
    save_detector(detector, config, path)
    loaded = load_detector(path)
    assert not loaded.training
    assert loaded.class_names == CLASSES
    assert (loaded.heads, loaded.branches) == (detector.heads, detector.branches)
    image = image_of(9)
    found, again = detector.detect(image), loaded.detect(image)
    assert found.keys() == again.keys() == set(detector.heads)
    for name, detections in found.items():
        assert len(detections.boxes) > 0
        for part in ("boxes", "scores", "labels"):
            assert torch.equal(getattr(detections, part), getattr(again[name], part))


def test_the_file_says_what_it_holds(tmp_path: Path) -> None:
    config = config_of("double", "seed=5", "model.fusion=max")
    save_detector(detector_of(config), config, tmp_path / "detector.pt")
    content = torch.load(tmp_path / "detector.pt", weights_only=True)
    assert set(content) == {"state", "class_names", "config"}
    assert saved_class_names(tmp_path / "detector.pt") == CLASSES
    assert content["class_names"] == list(CLASSES)
    assert Config.model_validate(content["config"]) == config


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config = config_of("fc")
    detector = detector_of(config)
    torch.nn.init.constant_(next(detector.rpn.parameters()), math.nan)
    save_detector(detector, config, tmp_path / "detector.pt")
    with pytest.raises(
        UserError, match=r"detector\.pt has weights that are not finite numbers \(rpn"
    ):
        load_detector(tmp_path / "detector.pt")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no detector at .*detector\.pt: train it"):
        load_detector(tmp_path / "detector.pt")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's file, with its hash beside it; to be copied."""
    path = tmp_path_factory.mktemp("good") / "detector.pt"
    save_detector(detector_of(config_of("fc")), config_of("fc"), path)
    return path


def refused(path: Path) -> None:
    with pytest.raises(UserError, match=r"detector\.pt is damaged or no detector") as error:
        load_detector(path)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"hello world", bytes(1000), pickle.dumps(Path("x"))])
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "detector.pt").write_bytes(content)
    refused(tmp_path / "detector.pt")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file(tmp_path: Path, good: Path, share: float) -> None:
    (tmp_path / "detector.pt").write_bytes(good.read_bytes()[: int(good.stat().st_size * share)])
    refused(tmp_path / "detector.pt")


@pytest.mark.parametrize("change", ["class", "width", "setting", "missing", "foreign"])
def test_parts_that_do_not_fit(tmp_path: Path, good: Path, change: str) -> None:
    path = tmp_path / "detector.pt"
    content = torch.load(good, weights_only=True)
    if change == "class":
        content["class_names"].append("blue")
    elif change == "width":
        content["config"]["model"]["fc_width"] += 1
    elif change == "setting":
        content["config"]["model"]["colour"] = "red"
    elif change == "missing":
        content["state"].popitem()
    else:
        content = {"model": {"weight": torch.ones(3)}}
    torch.save(content, path)
    refused(path)


def test_a_bit_that_has_flipped_anywhere_is_refused(tmp_path: Path, good: Path) -> None:
    path = shutil.copytree(good.parent, tmp_path / "copy") / "detector.pt"
    content = path.read_bytes()
    for place in torch.randint(8 * len(content), (10,)).tolist():
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"detector\.pt is damaged: its SHA-256 is not the one"):
            load_detector(path)
    path.write_bytes(content)
    assert load_detector(path).class_names == CLASSES


def test_the_hash_is_as_sha256sum_has_it_and_its_lack_is_said(
    tmp_path: Path, good: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shutil.copytree(good.parent, tmp_path / "copy") / "detector.pt"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.with_suffix(".sha256").read_text() == f"{digest}  detector.pt\n"
    path.with_suffix(".sha256").unlink()
    load_detector(path)
    assert "damage to detector.pt would go unnoticed" in caplog.text


def test_no_permission_is_not_damage(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(good))

    monkeypatch.setattr(torch, "load", refuse)
    for read in (load_detector, saved_class_names, saved_config):
        with pytest.raises(UserError, match=r"cannot read file .*detector\.pt: no permission"):
            read(good)
