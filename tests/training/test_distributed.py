"""Two processes under torchrun do together what one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import split_paths
from rethink_heads.detectors.rcnn.detector import load_detector
from rethink_heads.evaluation.measures import evaluate
from rethink_heads.runs import Run
from rethink_heads.training.train import train
from tests.tiny_coco import write_coco
from tests.torchrun import torchrun
from tests.training.exact_training import train_exactly
from tests.training.recorded import recording, tiny_config, weights

PROCESSES = 2

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no distributed package"
)


@pytest.fixture(scope="module")
def exact(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process (``alone``) and each of two did for the same Double-Head."""
    folder = tmp_path_factory.mktemp("exact")
    config = tiny_config(
        data, "double", "training.max_iterations=2", "training.batch_size=4", "training.flip=true"
    )
    for name in ("alone", "together"):
        (folder / f"{name}-results").mkdir()
        Run.create(folder / name, config)
    alone, together = (folder / f"{name}-results" for name in ("alone", "together"))
    train_exactly(Run.open(folder / "alone"), alone, 0)
    finished = torchrun("tests.training.exact_training", folder / "together", together)
    assert finished.returncode == 0, finished.stderr
    return {
        "run": Run.open(folder / "together"),
        "alone": torch.load(alone / "0.pt", weights_only=True),
        "ranks": [torch.load(together / f"{r}.pt", weights_only=True) for r in range(PROCESSES)],
    }


def test_the_processes_share_each_batch(exact: dict[str, Any]) -> None:
    alone = exact["alone"]["record"]
    shares = [rank["record"] for rank in exact["ranks"]]
    for record in (alone, *shares):
        assert record["iterations"] == [0, 1]
    for whole, *parts in zip(alone["images"], *(s["images"] for s in shares), strict=True):
        assert sorted(whole) == sorted(image for part in parts for image in part)
        assert [len(part) for part in parts] == [2, 2]


def test_all_processes_have_the_same_weights(exact: dict[str, Any]) -> None:
    first, second = (rank["state"] for rank in exact["ranks"])
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def test_losses_and_weights_are_those_of_one_process(exact: dict[str, Any]) -> None:
    alone = exact["alone"]
    losses = torch.tensor([rank["record"]["losses"] for rank in exact["ranks"]])
    expected = torch.tensor(alone["record"]["losses"])
    torch.testing.assert_close(losses.mean(0), expected, rtol=1e-5, atol=1e-6)
    # A share by itself is another loss: the agreement is none of equal images.
    assert not torch.allclose(losses[0], expected, rtol=1e-3)
    state = exact["ranks"][0]["state"]
    moved = [n for n in state if not torch.equal(state[n], alone["record"]["before"][n])]
    assert len(moved) > 50
    torch.testing.assert_close(state, alone["state"], rtol=1e-4, atol=1e-6)


def test_one_process_writes(exact: dict[str, Any]) -> None:
    run = exact["run"]
    assert [rank["saved"] for rank in exact["ranks"]] == [[str(run.detector_path)], []]
    logs = run.path / "logs"
    assert len(list(logs.rglob("metrics.csv"))) == 1
    assert len(list(logs.rglob("events.out.tfevents.*"))) == 1


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    """It goes on with what one process began, and validates on all images with one set of weights."""
    for split, images in (("train", 4), ("val", 9)):
        write_coco(tmp_path / "data", split, images)
    config = tiny_config(tmp_path / "data", "double-ext")
    run = Run.create(tmp_path / "run", config)
    with recording(stop_at=3), pytest.raises(KeyboardInterrupt):
        train(config, run, "cpu")
    finished = torchrun("rethink_heads", "train", "--run", run.path, "--device", "cpu")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("trained:") == 1
    assert finished.stderr.count("goes on at iteration 2") == 1
    assert not [path for path in run.path.rglob(".*")]
    assert all(torch.isfinite(value).all() for value in weights(run).values())

    best = torch.load(run.best_checkpoint, weights_only=True)
    assert best["global_step"] == 4
    detector = load_detector(run.detector_path)
    detector.load_state_dict(
        {name.removeprefix("detector."): value for name, value in best["state_dict"].items()}
    )
    found = evaluate(detector, CocoDataset(*split_paths(config.data, "val")), progress=False)
    (log,) = (run.path / "logs").glob("csv/version_1/metrics.csv")
    (logged,) = pd.read_csv(log).dropna(subset=["val_AP"]).to_dict("records")
    assert found["double-ext"]["AP50"] > 0
    for head, values in found.items():
        for name in ("AP", "AP50", "AP75"):
            assert logged[f"val_{name}_{head}"] == pytest.approx(values[name], abs=1e-6)
