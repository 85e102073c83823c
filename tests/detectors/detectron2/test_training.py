"""detectron2's own trainer trains our double head on real images, and what it trained is opened and analysed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.engine import launch

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.detectron2 import train_net
from rethink_heads.detectors.detectron2.adapter import Detectron2Detector
from rethink_heads.detectors.detectron2.opening import open_detectron2
from rethink_heads.errors import UserError
from rethink_heads.measure.runner import measure
from tests.detectors.detectron2.small_detectors import SMALL, pairs, sample_of_coco

ITERATIONS = 40
IMAGES = 4


def arguments(data: list[str], output: Path, *options: str, **settings: Any) -> list[str]:
    """A command line of ``train_net``; ``settings`` are keys with ``__`` for a point."""
    own = {key.replace("__", "."): value for key, value in settings.items()}
    values = SMALL | {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "INPUT.RANDOM_FLIP": "none"}
    values |= {"SOLVER.BASE_LR": 0.01, "OUTPUT_DIR": str(output)} | own
    annotations, images = data
    return [
        *("--config-file", "double_head_ext_R_50_FPN", *options),
        *("--train-annotations", annotations, "--train-images", images, *pairs(values)),
    ]


@pytest.fixture(scope="module")
def data(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return sample_of_coco(shared_data, tmp_path_factory.mktemp("data"), IMAGES)


@pytest.fixture(scope="module")
def two_iterations(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training of two iterations."""
    folder = tmp_path_factory.mktemp("trained")
    train_net.main(train_net.parse_arguments(arguments(data, folder, SOLVER__MAX_ITER=2)))
    return folder


@pytest.fixture(scope="module")
def first_checkpoint(two_iterations: Path) -> dict[str, Any]:
    """What detectron2 kept of these two iterations."""
    return torch.load(two_iterations / "model_final.pth", weights_only=True)


@pytest.fixture(scope="module")
def longer(data: list[str], two_iterations: Path, first_checkpoint: dict[str, Any]) -> Path:
    """The same folder after it was gone on with."""
    # So few iterations leave normalisations behind their weights: detectron2 takes their statistics again at the end.
    precise = {"TEST__PRECISE_BN__ENABLED": True, "TEST__PRECISE_BN__NUM_ITER": 4}
    options = arguments(data, two_iterations, "--resume", SOLVER__MAX_ITER=ITERATIONS, **precise)
    train_net.main(train_net.parse_arguments(options))
    return two_iterations


@pytest.fixture(scope="module")
def detector(longer: Path) -> Detectron2Detector:
    return open_detectron2(str(longer / "config.yaml"), str(longer / "model_final.pth"))


def test_resuming_takes_up_weights_momentum_and_iteration(
    data: list[str], two_iterations: Path, first_checkpoint: dict[str, Any]
) -> None:
    options = arguments(data, two_iterations, "--resume", SOLVER__MAX_ITER=3)
    trainer = train_net.trainer()(train_net.build_config(train_net.parse_arguments(options)))
    fresh = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    state = trainer.model.state_dict()
    for name, value in first_checkpoint["model"].items():
        assert torch.equal(state[name], value)
    assert any((state[name] != fresh[name]).any() for name in state if "conv.blocks" in name)
    kept = first_checkpoint["trainer"]["_trainer"]["optimizer"]["state"]
    ours = trainer.optimizer.state_dict()["state"]
    assert kept
    for index, each in kept.items():
        assert torch.equal(ours[index]["momentum_buffer"], each["momentum_buffer"])


def test_the_loss_falls(longer: Path) -> None:
    lines = [json.loads(line) for line in (longer / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 19, 39]
    assert lines[-1]["total_loss"] < 0.7 * lines[0]["total_loss"]
    ours = [key for key in lines[0] if key.startswith(("loss_fc", "loss_conv"))]
    assert len(ours) == 4
    assert sum(lines[-1][key] for key in ours) < 0.7 * sum(lines[0][key] for key in ours)


def test_what_was_trained_is_opened_and_measured(
    data: list[str], detector: Detectron2Detector, tmp_path: Path
) -> None:
    dataset = CocoDataset(*map(Path, data))
    assert detector.class_names == dataset.class_names
    config = MeasuringConfig(images=3, objects_per_image=2, grid_steps=3)
    measured = measure(detector, dataset, "trained", config, 0, tmp_path, {}, progress=False)
    assert set(measured.heads) == {"fc", "conv", "double", "double-ext"}
    assert measured.objects["image_id"].nunique() == 3
    scores = measured.rows(("trained", "fc"))["score"]
    assert len(set(scores.tolist())) > len(scores) / 4
    assert measured.map_keys("weight_correlation") == (("trained", "fc"),)
    assert measured.map_keys("spatial_correlation") == (("trained", "conv"), ("trained", "fc"))


def test_weights_are_evaluated(data: list[str], longer: Path, tmp_path: Path) -> None:
    options = ["--eval-only", "--test-annotations", data[0], "--test-images", data[1]]
    weights = str(longer / "model_final.pth")
    args = arguments(data, tmp_path, *options, MODEL__WEIGHTS=weights)
    result = train_net.main(train_net.parse_arguments(args))
    # Forty iterations on four images find next to nothing, but AP is a number, not a lack of one.
    assert 0 <= result["bbox"]["AP"] <= 100
    assert (tmp_path / "inference" / "coco_instances_results.json").is_file()


def test_two_processes_train_the_same_weights(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The processes take over the paths and the environment; a checkout of detectron2 has a `tests` of its own.
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import two_processes

    options = train_net.parse_arguments(arguments(data, tmp_path / "run", SOLVER__MAX_ITER=2))
    launch(two_processes.train, 2, dist_url="auto", args=(options, tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["wrapped"] == second["wrapped"] == "DistributedDataParallel"
    assert first["sums"] == second["sums"]
    assert first["sums"][0] != first["sums"][1]
    assert (tmp_path / "run" / "model_final.pth").is_file()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "no --config-file"),
        (["--config-file", "nowhere.yaml"], "no configuration 'nowhere.yaml'"),
        (["--config-file", "fc_head_R_50_FPN", "MODEL.HEADS", "3"], "the command line"),
        (["--config-file", "fc_head_R_50_FPN", "SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
        (["--config-file", "fc_head_R_50_FPN", "SOLVER.MAX_ITER"], "the command line"),
        (["--config-file", "fc_head_R_50_FPN", "--train-images", "x"], "go together"),
        (
            [
                *("--config-file", "fc_head_R_50_FPN"),
                *("--train-annotations", "none.json", "--train-images", "x"),
            ],
            "no annotations at",
        ),
        (["--config-file", "fc_head_R_50_FPN", "--num-gpus", "99"], "--num-gpus 99"),
        (["--config-file", "fc_head_R_50_FPN"], "coco_2017_train is not at .*--train-annotations"),
        (["--config-file", "fc_head_R_50_FPN", "DATASETS.TRAIN", "['mine']"], "no dataset mine"),
        (["--config-file", "fc_head_R_50_FPN", "DATASETS.TRAIN", "[]"], "no data to train on"),
        (
            ["--config-file", "fc_head_R_50_FPN", "--eval-only", "DATASETS.TEST", "[]"],
            "no data to test on",
        ),
    ],
)
def test_a_mistake_is_one_sentence(argv: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        train_net.invoke(argv)


def test_data_and_classes_must_fit(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name, classes in (("train", ("a", "b")), ("test", ("a",)), ("none", ())):
        categories = [{"id": i, "name": each} for i, each in enumerate(classes)]
        content = {"images": [], "annotations": [], "categories": categories}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data = [str(tmp_path / "train.json"), str(images)]
    others = ["--test-annotations", str(tmp_path / "test.json"), "--test-images", str(images)]

    def built(*options: str, **settings: Any) -> Any:
        args = train_net.parse_arguments(arguments(data, tmp_path / "out", *options, **settings))
        return train_net.build_config(args)

    cfg = built()
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RETHINK_HEADS.CLASS_NAMES) == (2, ["a", "b"])
    assert (len(cfg.DATASETS.TRAIN), len(cfg.DATASETS.TEST)) == (1, 0)
    with pytest.raises(UserError, match="differ"):
        built(*others)
    with pytest.raises(UserError, match="NUM_CLASSES is 7"):
        built(MODEL__ROI_HEADS__NUM_CLASSES=7)
    data[1] = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no folder of images"):
        built()
    data[:] = [str(tmp_path / "none.json"), str(images)]
    with pytest.raises(UserError, match="has no categories"):
        built()
    data[0] = str(images)
    with pytest.raises(UserError, match="not COCO's JSON"):
        built()
