"""A training that was interrupted ends as one that was not."""

from __future__ import annotations

import errno
import shutil
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pandas as pd
import pytest
import torch
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import resnet18

from rethink_heads.config import Config
from rethink_heads.detectors.rcnn.detector import load_detector
from rethink_heads.errors import UserError
from rethink_heads.files import sha256
from rethink_heads.runs import Run
from rethink_heads.training import module
from rethink_heads.training.train import train
from tests.training.recorded import Record, assert_same_weights, recording, tiny_config, weights


def metrics(run: Run) -> pd.DataFrame:
    """The logs of all sessions, one after the other."""
    return pd.concat(pd.read_csv(p) for p in sorted((run.path / "logs").rglob("metrics.csv")))


@dataclass(frozen=True)
class Whole:
    """An uninterrupted training."""

    run: Run
    record: Record


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Six iterations with validations after the fourth and checkpoints after every second."""
    config = tiny_config(data, "double-ext")
    run = Run.create(tmp_path_factory.mktemp("runs") / "whole", config)
    with recording() as record:
        train(config, run, "cpu")
    assert record.iterations == list(range(6))
    assert record.validated == [4]
    return Whole(run, record)


def interrupt(run: Run, **where: int) -> Record:
    before = signal.getsignal(signal.SIGINT)
    with recording(**where) as record, pytest.raises(KeyboardInterrupt):
        train(run.config, run, "cpu")
    assert not run.detector_path.exists()
    # Ctrl-C works after an interruption, too.
    assert signal.getsignal(signal.SIGINT) is before
    return record


def go_on(run: Run) -> Record:
    with recording() as record, warnings.catch_warnings():
        warnings.simplefilter("error")
        # Not of this package: Lightning's of its own code and PyTorch's.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        train(run.config, run, "cpu")
    return record


@pytest.mark.parametrize(
    ("interruptions", "begins"),
    [
        ([{"stop_at": 1}], [0, 0]),
        ([{"stop_at": 3}], [0, 2]),
        ([{"stop_at": 4}], [0, 4]),
        ([{"stop_at": 2}, {"stop_at": 3}, {"stop_in_validation": 4}], [0, 2, 2, 2]),
    ],
)
def test_the_end_is_the_same(
    whole: Whole, tmp_path: Path, interruptions: list[dict[str, int]], begins: list[int]
) -> None:
    # The settings are read from the run's file in the place of a preset.
    run = Run.open(Run.create(tmp_path / "run", whole.run.config).path)
    sessions = [*(interrupt(run, **where) for where in interruptions), go_on(run)]
    for session, begin in zip(sessions, begins, strict=True):
        end = begin + len(session.iterations)
        assert session.iterations == whole.record.iterations[begin:end]
        for part in ("images", "losses", "rates"):
            assert getattr(session, part) == getattr(whole.record, part)[begin:end]
    assert end == 6
    assert [at for session in sessions for at in session.validated] == whole.record.validated
    assert sha256(run.detector_path) == sha256(whole.run.detector_path)
    for name in ("last_checkpoint", "best_checkpoint"):
        kept, expected = (
            torch.load(getattr(each, name), weights_only=True) for each in (run, whole.run)
        )
        assert kept["global_step"] == expected["global_step"]
        assert_same_weights(kept["state_dict"], expected["state_dict"])


def test_of_a_network_of_timm_the_end_is_the_same(data: Path, tmp_path: Path) -> None:
    """Also where the file that it began with is gone."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    name = "test_resnet.r160_in1k"
    torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pth")
    network = [f"model.backbone=timm:{name}", f"model.backbone_weights={tmp_path / 'weights.pth'}"]
    config = tiny_config(
        data, "double", *network, "model.fpn_norm=group", "model.canonical_size=18"
    )
    undisturbed = Run.create(tmp_path / "undisturbed", config)
    train(config, undisturbed, "cpu")
    run = Run.create(tmp_path / "run", config)
    interrupt(run, stop_at=3)
    (tmp_path / "weights.pth").unlink()
    assert go_on(run).iterations == [2, 3, 4, 5]
    assert sha256(run.detector_path) == sha256(undisturbed.detector_path)
    assert load_detector(run.detector_path).backbone.strides == (4, 8, 16, 32)


def test_a_worker_reads_the_same_batches(whole: Whole, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", whole.run.config.with_overrides(["training.workers=1"]))
    interrupt(run, stop_at=3)
    assert go_on(run).images == whole.record.images[2:]
    assert_same_weights(weights(run), weights(whole.run))


def test_stopped_before_the_detector_is_written(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", whole.run.config)

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rethink_heads.training.train.save_detector", stop)
        interrupt(run)
    assert go_on(run).iterations == []
    assert_same_weights(weights(run), weights(whole.run))


def test_the_best_is_remembered(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the interruption came right after the validation that found it."""
    config = tiny_config(data, "fc", "training.validate_every=2")
    run = Run.create(tmp_path / "run", config)
    scores = iter([0.9, 0.5, 0.6])

    def scripted(*args: object) -> dict[str, dict[str, float]]:
        score = next(scores)
        return {"fc": {"AP": score, "AP50": score, "AP75": score}}

    monkeypatch.setattr(module, "precision_by_head", scripted)
    interrupt(run, stop_at=2)
    moved = run.path.rename(tmp_path / "moved")
    run = Run.open(moved)
    interrupt(run, stop_at=4)
    go_on(run)
    assert torch.load(run.best_checkpoint, weights_only=True)["global_step"] == 2
    assert metrics(run)["val_AP"].dropna().tolist() == pytest.approx([0.9, 0.5, 0.6])


def test_logs_of_the_first_session_are_kept(data: Path, tmp_path: Path) -> None:
    config = tiny_config(
        data,
        "fc",
        "training.max_iterations=42",
        "training.batch_size=1",
        "training.validate_every=42",
    )
    run = Run.create(tmp_path / "run", config)
    record = interrupt(run, stop_at=30)
    rest = go_on(run)
    losses = metrics(run).set_index("step")["loss"].dropna()
    assert losses.index.tolist() == [19, 39]
    assert losses.tolist() == pytest.approx([record.losses[19], rest.losses[39 - 30]])


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "foreign", "other"])
def test_a_damaged_checkpoint_is_refused(whole: Whole, tmp_path: Path, damage: str) -> None:
    run = Run.create(tmp_path / "run", whole.run.config)
    run.checkpoints.mkdir()
    path = run.last_checkpoint
    good = whole.run.last_checkpoint.read_bytes()
    if damage == "foreign":
        torch.save({"state_dict": {}}, path)
    elif damage == "other":
        content = torch.load(whole.run.last_checkpoint, weights_only=True)
        name = "detector.roi_heads.heads.fc.fc6.weight"
        content["state_dict"][name] = content["state_dict"][name][:-1]
        torch.save(content, path)
    else:
        path.write_bytes({"empty": b"", "text": b"nothing", "truncated": good[:-2000]}[damage])
    with recording() as record, pytest.raises(UserError, match=r"last\.ckpt.*delete it") as error:
        train(run.config, run, "cpu")
    assert "\n" not in str(error.value)
    assert record.iterations == []
    assert not run.detector_path.exists()


class TestWithoutImageNetWeights:
    """They cannot be downloaded, or can be at first and not when the training goes on."""

    @pytest.fixture
    def config(self, data: Path) -> Config:
        return tiny_config(
            data,
            "fc",
            "model.backbone=resnet18",
            "model.pretrained=true",
            "model.norm=frozen",
            "model.trainable_layers=2",
            "training.max_iterations=2",
            "training.checkpoint_every=1",
            "training.validate_every=2",
        )

    @staticmethod
    def offline(*args: object, **kwargs: object) -> Any:
        raise URLError("no network")

    @staticmethod
    def online(*args: object, **kwargs: object) -> Any:
        return resnet18().state_dict()

    @pytest.mark.parametrize(
        "error",
        [
            PermissionError(errno.EACCES, "Permission denied", "/cache/hub"),
            OSError(errno.ENOSPC, "No space left on device"),
        ],
    )
    def test_a_cache_that_cannot_be_written_is_named(
        self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
    ) -> None:
        def fails(*args: object, **kwargs: object) -> Any:
            raise error

        monkeypatch.setenv("TORCH_HOME", "/cache")
        monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fails)
        run = Run.create(tmp_path / "run", config)
        with pytest.raises(UserError, match=rf"in /cache/hub: {error.strerror}; .* TORCH_HOME"):
            train(config, run, "cpu")

    def test_it_says_what_can_be_done(
        self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ResNet18_Weights, "get_state_dict", self.offline)
        run = Run.create(tmp_path / "run", config)
        says = r"weights of resnet18 \(.*no network.*\); .*model.backbone_weights=FILE, .*model.pretrained=false"
        with pytest.raises(UserError, match=says):
            train(config, run, "cpu")

    def test_it_needs_no_download_to_go_on(
        self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Run.create(tmp_path / "run", config)
        monkeypatch.setattr(ResNet18_Weights, "get_state_dict", self.online)
        first = interrupt(run, stop_at=1)
        monkeypatch.setattr(ResNet18_Weights, "get_state_dict", self.offline)
        go_on(run)
        detector = load_detector(run.detector_path)
        assert detector.norm == "frozen"
        after = detector.state_dict()
        for name, moved in [
            ("layer1", False),
            ("layer2", False),
            ("layer3", True),
            ("layer4", True),
        ]:
            name = f"backbone.body.{name}.0.conv1.weight"
            assert torch.equal(first.before[name], after[name]) is not moved, name
        shutil.rmtree(run.checkpoints)
