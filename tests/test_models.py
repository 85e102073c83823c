"""Detectors that a user brings, on the command line: their folders, classes, mistakes, and what they cannot offer."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from rethink_heads.brought import BroughtRun, open_folder
from rethink_heads.cli import app
from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.detectors.opening import open_model
from rethink_heads.files import read_csv
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.runner import measure
from rethink_heads.statistics.comparison import compare
from rethink_heads.statistics.correlation import pearson
from tests.tiny_coco import write_annotations, write_coco

ANALYSES = ("correlate", "regress", "sensitivity")
FEW = ("--grid-steps", "3", "measuring.proposals_per_object=none")

MODULE = '''
import torch
from torch import nn

from rethink_heads.detectors.base import Detections, HeadOutput


class Minimal:
    """All that the Protocol asks for: the scores are those of the mean colour in the box."""

    class_names, heads, device = ("red", "green"), ("colour",), torch.device("cpu")

    def __init__(self, sharpness=1.0):
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.sharpness = sharpness

    def extract(self, image):
        return image.float() / 255

    def pool(self, features, boxes):
        return {}

    def predict(self, features, roi_features, boxes):
        colours = torch.stack([self.mean(features, box) for box in boxes.round().long()])
        scores = (self.sharpness * self.layer(colours)).softmax(-1)
        return {"colour": HeadOutput(scores, boxes[:, None].expand(-1, 2, 4))}

    def mean(self, features, box):
        x1, y1, x2, y2 = box.tolist()
        return features[:, y1:max(y2, y1 + 1), x1:max(x2, x1 + 1)].mean(dim=(1, 2)).nan_to_num()


class Full(Minimal):
    """With everything that is optional."""

    def pool(self, features, boxes):
        rois = [features[:, : 4 * 7, : 4 * 7].reshape(3, 7, 4, 7, 4).mean(dim=(2, 4)) for _ in boxes]
        return {"box": torch.stack(rois)}

    def propose(self, image):
        boxes = torch.tensor([[8.0, 8.0, 30.0, 30.0], [0.0, 0.0, 64.0, 48.0], [12.0, 10.0, 40.0, 32.0]])
        return self.extract(image), boxes

    def detect(self, image):
        features, boxes = self.propose(image)
        scores = self.predict(features, {}, boxes)["colour"].scores.detach()
        best = scores.max(dim=1)
        order = best.values.argsort(descending=True)
        return {"colour": Detections(boxes[order], best.values[order], best.indices[order])}

    def output_maps(self, roi_features):
        return {"colour": roi_features["box"]}

    def weight_maps(self):
        return {}


class OtherNames(Full):
    class_names = ("Green", "blue", "scarlet")

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def predict(self, features, roi_features, boxes):
        colours = torch.stack([self.mean(features, box) for box in boxes.round().long()])
        return {"colour": HeadOutput(self.layer(colours).softmax(-1), boxes[:, None].expand(-1, 3, 4))}


def minimal():
    return Minimal()


def full(weights=None):
    return Full(1.0 if weights is None else float(open(weights).read()))


def sharp():
    return Full(8.0)


def other_names():
    return OtherNames()


def logits():
    detector = Minimal()
    predict = detector.predict

    def predicted(features, roi_features, boxes):
        output = predict(features, roi_features, boxes)["colour"]
        return {"colour": HeadOutput(output.scores + 3, output.boxes)}

    detector.predict = predicted
    return detector


def no_detector():
    return 42


def broken():
    raise ValueError("no such\\nfile")
'''

runner = CliRunner()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data", images=6)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of detectors, which no other test sees."""
    (tmp_path / "my_detectors.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("my_detectors", None)
    yield tmp_path
    sys.modules.pop("my_detectors", None)


class Warnings(logging.Handler):
    """What is logged: pytest takes it away from standard error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def invoke(*arguments: object) -> tuple[dict, str]:
    """Run a command with --json; return its result and what it said, in one line."""
    warnings = Warnings()
    logging.getLogger("rethink_heads").addHandler(warnings)
    try:
        done = runner.invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    finally:
        logging.getLogger("rethink_heads").removeHandler(warnings)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), " ".join([*done.stderr.split(), *warnings.lines])


def fails(*arguments: object) -> str:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


def test_a_users_own_detector_is_measured_as_by_the_library(data: Path, here: Path) -> None:
    found, _ = invoke("correlate", "--model", "python:my_detectors:full", "--data", data, *FEW)
    dataset = CocoDataset(data / "annotations" / "instances_val.json", data / "val")
    detector = open_model("python:my_detectors:full")
    config = MeasuringConfig(grid_steps=3, proposals_per_object=None)
    expected = measure(detector, dataset, "direct", config, 0, here / "direct", {})
    kept = Measurements.load(here / "runs" / "my_detectors-full" / "measurements" / "default")
    columns = [
        "image_id",
        "object_id",
        "bin",
        "n",
        "sum_score",
        "sum_iou_score",
        "sum_regressed_iou",
    ]
    pd.testing.assert_frame_equal(kept.bins[columns], expected.bins[columns], check_exact=True)
    row = pearson(expected).query("size == 'all'").iloc[0]
    assert found["by_size"]["all"]["pcc"] == row["pcc"]
    assert found["head"] == "colour"


@pytest.mark.parametrize("command", ANALYSES)
def test_what_a_minimal_detector_lacks_is_said_and_nothing_else_is_lost(
    command: str, data: Path
) -> None:
    found, said = invoke(command, "--model", "python:my_detectors:minimal", "--data", data, *FEW)
    assert (
        "it has no `output_maps`, so it goes without the spatial correlation of output maps" in said
    )
    assert "it shows no RoI features (`pool` gives none)" in said
    if command == "sensitivity":
        assert found["spatial_correlation"] == []
        assert {row["kind"] for row in found["responses"]} == {"displacement_score"}
    else:
        assert found["by_size"]["all"]


def test_stages_that_a_detector_lacks_are_left_out(data: Path) -> None:
    model = ("--model", "python:my_detectors:minimal", "--data", data, "--stage", "all", *FEW)
    found, said = invoke("correlate", *model)
    assert {row["stage"] for row in found["stage_correlation"]} == {"predefined"}
    assert "it has no `propose`, so it goes without the correlation on its own proposals" in said
    assert "it has no `detect`" in said
    assert "there are no boxes at the stage rpn" in said
    message = fails("evaluate", "--model", "python:my_detectors:minimal", "--data", data)
    assert "my_detectors-minimal cannot be evaluated: it has no `detect`" in message


def test_every_stage_and_precision_of_a_full_detector(data: Path) -> None:
    model = ("--model", "python:my_detectors:full", "--data", data)
    found, said = invoke("correlate", *model, "--stage", "all", *FEW)
    assert {row["stage"] for row in found["stage_correlation"]} == {
        "predefined",
        "rpn",
        "detections",
    }
    assert "goes without" not in said
    evaluated, _ = invoke("evaluate", *model)
    assert evaluated["results"][0]["head"] == "colour"
    assert 0 <= evaluated["results"][0]["AP"] <= 1


def test_the_folder_is_opened_again_by_its_name_alone(data: Path, here: Path) -> None:
    first, _ = invoke("correlate", "--model", "mine=python:my_detectors:full", "--data", data, *FEW)
    folder = open_folder(here / "runs" / "mine")
    assert isinstance(folder, BroughtRun)
    assert folder.config.detector.heads == ["colour"]
    again, said = invoke("correlate", "--run", here / "runs" / "mine")
    assert again == first
    assert "measuring" not in said
    drawn = runner.invoke(app, ["figures", "--run", str(here / "runs" / "mine")])
    assert drawn.exit_code == 0, drawn.stderr
    assert (here / "runs" / "mine" / "figures" / "figure2.png").is_file()


def test_another_detector_under_the_same_name_is_refused(data: Path) -> None:
    options = ("--data", data, *FEW)
    invoke("correlate", "--model", "mine=python:my_detectors:full", *options)
    message = fails("correlate", "--model", "mine=python:my_detectors:sharp", *options)
    assert "belongs to another detector; name this one otherwise: --model NAME=" in message


def test_changed_weights_are_measured_again(data: Path, here: Path) -> None:
    (here / "sharpness.txt").write_text("1.0")
    model = ("--model", "python:my_detectors:full", "--weights", here / "sharpness.txt")
    first, _ = invoke("correlate", *model, "--data", data, *FEW)
    text = (here / "my_detectors.py").read_text()
    (here / "my_detectors.py").write_text(text.replace("manual_seed(0)", "manual_seed(1)"))
    sys.modules.pop("my_detectors")
    second, said = invoke("correlate", *model, "--data", data, *FEW)
    assert "made again" in said
    assert first["by_size"]["all"]["pcc"] != second["by_size"]["all"]["pcc"]


def test_three_detectors_give_one_figure_and_one_paired_table(data: Path, here: Path) -> None:
    models = [
        f"--model={name}=python:my_detectors:{made}"
        for name, made in (("a", "full"), ("b", "sharp"), ("c", "minimal"))
    ]
    found, _ = invoke("correlate", *models, "--data", data, *FEW)
    shared = here / "runs" / "a-b-c"
    assert (shared / "figures" / "correlate_comparison.png").is_file()
    table = read_csv(shared / "tables" / "correlate_comparisons.csv")
    pairs = set(table[["a", "b"]].itertuples(index=False, name=None))
    assert pairs == {
        ("a/colour", "b/colour"),
        ("a/colour", "c/colour"),
        ("b/colour", "c/colour"),
    }
    parts = [Measurements.load(here / "runs" / n / "measurements" / "default") for n in "abc"]
    expected = compare(Measurements.merge(parts), "pcc", ("a", "colour"), ("b", "colour"))
    ours = table[(table["statistic"] == "pcc") & (table["b"] == "b/colour")]
    assert ours["difference"].to_list() == pytest.approx(
        expected["difference"].to_list(), nan_ok=True, abs=0
    )
    for command in ("regress", "sensitivity"):
        found, _ = invoke(command, *models, "--data", data, *FEW)
        assert (shared / "tables" / f"{command}_comparisons.csv").is_file()
        assert str(Path("runs/a-b-c/figures") / f"{command}_comparison.png") in found["files"]
    evaluated, _ = invoke("evaluate", *models[:2], "--data", data)
    assert len(evaluated["comparisons"]["ap"]) > 0
    assert (here / "runs" / "a-b" / "tables" / "ap_comparisons.csv").is_file()


def test_classes_are_matched_by_name_and_by_a_map(data: Path, here: Path) -> None:
    options = ("--data", data, *FEW)
    other = "other=python:my_detectors:other_names"
    _, said = invoke("correlate", "--model", other, *options)
    greens = 3
    assert "Classes of the data that other lacks" in said
    assert "red" in said
    assert f"other: {greens} objects of classes that it lacks are left out" in said
    kept = Measurements.load(here / "runs" / "other" / "measurements" / "default")
    assert set(kept.bins["class_name"]) == {"green"}
    (here / "map.yaml").write_text("red: scarlet\n")
    found, said = invoke("correlate", "--model", other, *options, "--class-map", "map.yaml")
    assert found["by_size"]["all"]["objects"] == 6
    assert "classes that the data lacks, whose detections do not count: blue" in said
    (here / "wrong.yaml").write_text("red: crimson\n")
    message = fails("correlate", "--model", other, *options, "--class-map", "wrong.yaml")
    assert "crimson" in message


def test_detectors_of_different_classes_are_compared_on_what_both_have(
    data: Path, here: Path
) -> None:
    models = (
        "--model",
        "a=python:my_detectors:full",
        "--model",
        "b=python:my_detectors:other_names",
    )
    found, said = invoke("correlate", *models, "--data", data, *FEW)
    assert "compared on the 3 objects that all have measured (6 of a, 3 of b)" in said
    assert [each["by_size"]["all"]["objects"] for each in found["heads"]] == [3, 3]
    message = fails("evaluate", *models, "--data", data)
    assert "were evaluated on different classes" in message
    # One map for each detector: none for the first.
    (here / "map.json").write_text('{"red": "scarlet"}')
    maps = ("--class-map", "none", "--class-map", "map.json")
    found, _ = invoke("correlate", *models, "--data", data, *FEW, *maps)
    assert [each["by_size"]["all"]["objects"] for each in found["heads"]] == [6, 6]


def test_no_class_in_common(data: Path) -> None:
    content = write_coco(data, images=6)
    for category, name in zip(content["categories"], ("cat", "dog"), strict=True):
        category["name"] = name
    write_annotations(data, content)
    message = fails("regress", "--model", "python:my_detectors:full", "--data", data)
    assert "cat" in message
    assert "--class-map" in message


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("resnet50", "unknown model 'resnet50'; give one of torchvision:NAME, detectron2:CONFIG"),
        ("caffe:net", "unknown model 'caffe:net'"),
        ("python:my_detectors", "does not name a function: give python:MODULE:FUNCTION"),
        ("python:no_such:make", "there is no module no_such"),
        ("python:my_detectors:no_such", "my_detectors has no function no_such"),
        (
            "python:my_detectors:broken",
            "python:my_detectors:broken failed: ValueError: no such file (",
        ),
        ("python:my_detectors:no_detector", "int is neither a detector of torchvision"),
        ("python:my_detectors:logits", "gave scores outside 0 to 1; probabilities are expected"),
        ("../up=python:my_detectors:full", "cannot be the name of a folder"),
    ],
)
def test_mistakes_in_a_model_are_one_sentence(
    model: str, says: str, data: Path, here: Path
) -> None:
    assert says in fails("correlate", "--model", model, "--data", data)
    assert not (here / "runs").exists()


def test_options_that_do_not_go_together(data: Path) -> None:
    assert "--weights belongs to --model" in fails("correlate", "--weights", "x.pth")
    assert "there is no data for" in fails("correlate", "--model", "python:my_detectors:full")
    model = ("--model", "python:my_detectors:minimal", "--data", data)
    assert "takes no argument `weights`" in fails("correlate", *model, "--weights", "x.pth")
    two = ("--model", "a=python:my_detectors:full", "--model", "b=python:my_detectors:full")
    three = ("--weights", "x", "--weights", "y", "--weights", "z")
    message = fails("correlate", *two, *three, "--data", data)
    assert "3 times --weights for 2 models" in message
    same = ("--model", "python:my_detectors:full", "--model", "python:my_detectors:full")
    message = fails("correlate", *same, "--data", data)
    assert "two of the detectors are called 'my_detectors-full'" in message
    assert "no head 'fc' here: my_detectors-minimal has colour" in fails(
        "correlate", *model, "--head", "fc"
    )
