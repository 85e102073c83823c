"""What is checked of a user's own detector: each mistake is named, and the check leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rethink_heads.detectors.base import Detections, HeadOutput
from rethink_heads.detectors.checking import check_detector
from rethink_heads.detectors.fingerprint import fingerprint
from rethink_heads.errors import UserError
from tests.detectors.colours import Colours


class Full(Colours):
    """With everything that is optional."""

    def pool(self, features: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        cells = features[:, : 4 * 7, : 4 * 7].reshape(3, 7, 4, 7, 4).mean(dim=(2, 4))
        return {"box": cells.expand(len(boxes), 3, 7, 7)}

    def propose(self, image: Tensor) -> Any:
        boxes = torch.tensor([[8.0, 8.0, 30.0, 30.0], [0.0, 0.0, 64.0, 48.0]])
        return self.extract(image), boxes

    def detect(self, image: Tensor) -> Any:
        _, boxes = self.propose(image)
        return {"colour": Detections(boxes, torch.tensor([0.9, 0.9]), torch.tensor([0, 1]))}

    def output_maps(self, roi_features: dict[str, Tensor]) -> Any:
        return dict(roi_features)

    def weight_maps(self) -> Any:
        return {"colour": torch.ones(12, 7, 7)}


def changed(change: Callable[[HeadOutput], Any]) -> Callable[[Colours], None]:
    """Have ``predict`` answer with something else."""

    def apply(detector: Colours) -> None:
        predict = detector.predict
        detector.predict = lambda *args: {"colour": change(predict(*args)["colour"])}  # type: ignore[method-assign]

    return apply


def with_attribute(name: str, value: Any) -> Callable[[Colours], None]:
    return lambda detector: setattr(detector, name, value)


MISTAKES = {
    "`class_names` of mine is 'red'": with_attribute("class_names", "red"),
    "`heads` of mine is \\(\\)": with_attribute("heads", ()),
    "`heads` of mine is \\('colour', 'colour'\\): each needs a name of its own": with_attribute(
        "heads", ("colour", "colour")
    ),
    "`heads` of mine is \\('../colour',\\): .* without '/'": with_attribute(
        "heads", ("../colour",)
    ),
    "`class_names` of mine has a name that is no text": with_attribute(
        "class_names", ("\udcff", "b")
    ),
    "gave scores of shape \\(3, 2\\) of int64, strided, where floating-point numbers": changed(
        lambda out: HeadOutput(out.scores.long(), out.boxes)
    ),
    "gave scores of shape \\(3, 2\\) of float32, sparse_coo, where": changed(
        lambda out: HeadOutput(out.scores.to_sparse(), out.boxes)
    ),
    "gave scores of a NumPy array of shape \\(3, 2\\), where": changed(
        lambda out: HeadOutput(out.scores.numpy(), out.boxes)
    ),
    "`pool` of mine gave .* where a dict of tensors": with_attribute("pool", lambda f, b: f),
    "`pool` of mine gave \\{box: shape \\(1, 3, 7, 7\\)\\} for 3 boxes": with_attribute(
        "pool", lambda f, b: {"box": torch.zeros(1, 3, 7, 7)}
    ),
    "`pool` of mine gave \\{box: shape \\(3, 1, 5, 7\\)\\} for 3 boxes, where .* \\(3, C, S, S\\)": with_attribute(
        "pool", lambda f, b: {"box": torch.zeros(len(b), 1, 5, 7)}
    ),
    "`device` of mine is None, where a torch.device": with_attribute("device", None),
    "`predict` of mine gave \\{other: ": with_attribute(
        "predict", lambda f, r, b: {"other": torch.zeros(1)}
    ),
    "where a HeadOutput is expected": changed(lambda output: output.scores),
    "gave scores of shape \\(3, 3\\), where .* the shape \\(3, 2\\) are expected: 3 boxes, 2 classes": changed(
        lambda out: HeadOutput(torch.cat([out.scores, out.scores[:, :1]], dim=1), out.boxes)
    ),
    "gave boxes of shape \\(3, 4\\), where .* the shape \\(3, 2, 4\\)": changed(
        lambda out: HeadOutput(out.scores, out.boxes[:, 0])
    ),
    "gave scores that are not finite": changed(
        lambda out: HeadOutput(out.scores * torch.nan, out.boxes)
    ),
    "scores outside 0 to 1; probabilities are expected": changed(
        lambda out: HeadOutput(out.scores.logit() - 5, out.boxes)
    ),
    "boxes outside the image or upside down": changed(
        lambda out: HeadOutput(out.scores, out.boxes * 2)
    ),
}


@pytest.mark.parametrize("says", MISTAKES)
def test_each_mistake_is_named(says: str) -> None:
    detector = Colours()
    MISTAKES[says](detector)
    with pytest.raises(UserError, match=says):
        check_detector(detector, "mine")


class Detected:
    """``detect`` of these boxes, scores and labels."""

    def __init__(self, boxes: Any, scores: Any, labels: Any) -> None:
        self.found = Detections(
            torch.as_tensor(boxes, dtype=torch.float32),
            torch.as_tensor(scores, dtype=torch.float32),
            torch.as_tensor(labels),
        )

    def __call__(self, image: Tensor) -> dict[str, Detections]:
        return {"colour": self.found}


BOX = [0.0, 0.0, 10.0, 10.0]
OFFERED = {
    "`propose` of mine gave shape \\(2, 4\\), where the image's features and boxes \\(M, 4\\)": (
        "propose",
        lambda image: torch.zeros(2, 4),
    ),
    "`propose` of mine gave \\(shape \\(1,\\), shape \\(4,\\)\\)": (
        "propose",
        lambda image: (torch.zeros(1), torch.zeros(4)),
    ),
    "`detect` of mine gave .* where a dict of Detections by the heads colour": (
        "detect",
        lambda image: Detected([BOX], [0.5], [1]).found,
    ),
    "`detect` of mine \\(colour\\) gave boxes of shape \\(1, 4\\), scores of shape \\(1, 2\\)": (
        "detect",
        Detected([BOX], [[0.5, 0.5]], [1]),
    ),
    "`detect` of mine .* gave the label 2, where 0 to 1 are expected: 2 classes without": (
        "detect",
        Detected([BOX, BOX], [0.5, 0.4], [1, 2]),
    ),
    "\\(colour\\) gave boxes of .*, scores of shape \\(1,\\) of complex64": (
        "detect",
        lambda image: {
            "colour": Detections(torch.tensor([BOX]), torch.ones(1) * 1j, torch.zeros(1).long())
        },
    ),
    "gave labels of type torch.float32, where integers": ("detect", Detected([BOX], [0.5], [1.0])),
    "gave detections out of order; the best first": (
        "detect",
        Detected([BOX, BOX], [0.4, 0.5], [1, 1]),
    ),
    "`detect` of mine .* gave scores outside 0 to 1": ("detect", Detected([BOX], [1.5], [0])),
    "`detect` of mine .* that are not finite": ("detect", Detected([BOX], [torch.nan], [0])),
    "`output_maps` of mine gave \\{box: shape \\(3, 147\\)\\}, where .* \\(3, C, S, S\\)": (
        "output_maps",
        lambda pooled: {"box": pooled["box"].flatten(1)},
    ),
    "`output_maps` of mine gave \\{box: shape \\(3, 3, 7, 5\\)\\}": (
        "output_maps",
        lambda pooled: {"box": pooled["box"][..., :5]},
    ),
    "`weight_maps` of mine gave \\{fc: shape \\(12, 5, 7\\)\\}, where .* \\(W, S, S\\)": (
        "weight_maps",
        lambda: {"fc": torch.ones(12, 5, 7)},
    ),
}


def test_a_detector_with_everything_passes() -> None:
    check_detector(Full())


@pytest.mark.parametrize("says", OFFERED)
def test_each_mistake_of_an_optional_method_is_named(says: str) -> None:
    detector = Full()
    setattr(detector, *OFFERED[says])
    with pytest.raises(UserError, match=says):
        check_detector(detector, "mine")


def broken(*arguments: Any) -> Any:
    raise KeyError("no such\nlevel")


@pytest.mark.parametrize(
    "method", ["extract", "pool", "predict", "propose", "detect", "output_maps", "weight_maps"]
)
def test_what_a_method_raises_is_said_with_its_place(method: str) -> None:
    detector = Full()
    setattr(detector, method, broken)
    line = broken.__code__.co_firstlineno + 1
    says = f"`{method}` of mine failed: KeyError: .*level.* \\({__file__}, line {line}\\)$"
    with pytest.raises(UserError, match=says):
        check_detector(detector, "mine")


def test_a_method_of_too_few_arguments_is_no_line_of_ours() -> None:
    detector: Any = Full()
    detector.predict = lambda features: {}
    with pytest.raises(UserError, match=r"`predict` of mine failed: TypeError: .* were given$"):
        check_detector(detector, "mine")


def test_an_answer_that_changes_is_refused() -> None:
    detector = Full()
    dropout = nn.Dropout(0.5)
    predict = detector.predict
    detector.predict = lambda f, r, b: predict(dropout(f), r, b)  # type: ignore[method-assign]
    says = "`predict` of mine gave other scores for the same image and boxes again .*training mode"
    with pytest.raises(UserError, match=says):
        check_detector(detector, "mine")
    dropout.eval()
    check_detector(detector, "mine")


@pytest.mark.parametrize("off", [1e-5, 1e-3])
def test_a_box_is_judged_by_itself(off: float) -> None:
    detector = Full()
    predict = detector.predict

    def among(features: Tensor, pooled: Any, boxes: Tensor) -> dict[str, HeadOutput]:
        output = predict(features, pooled, boxes)["colour"]
        return {"colour": HeadOutput(output.scores * (1 - off * len(boxes)), output.boxes)}

    detector.predict = among  # type: ignore[method-assign]
    if off < 1e-4:
        check_detector(detector, "mine")
        return
    with pytest.raises(UserError, match="other scores for a box alone than for the same box among"):
        check_detector(detector, "mine")


class Normalised(Colours):
    """Its normalisation is in a list, where no ``eval()`` of a module reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.BatchNorm2d(3)]

    def extract(self, image: Tensor) -> Tensor:
        return self.layers[0](image[None].float() / 255)[0]


def test_a_module_in_training_mode_is_named_and_left_as_it_was() -> None:
    detector = Normalised()
    before, mode = fingerprint(detector), detector.layers[0].training
    random = torch.random.get_rng_state()
    with pytest.raises(UserError, match="a BatchNorm2d of mine is in training mode"):
        check_detector(detector, "mine")
    assert fingerprint(detector) == before
    assert detector.layers[0].num_batches_tracked == 0
    assert detector.layers[0].training == mode
    detector.layers[0].eval()
    check_detector(detector, "mine")
    assert torch.equal(torch.random.get_rng_state(), random)
    assert fingerprint(copy.deepcopy(detector)) == before


def test_a_device_that_fails_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError

    detector = Colours()
    monkeypatch.setattr(Tensor, "to", fail)
    with pytest.raises(UserError, match=r"is cpu, which cannot be used here \(AssertionError\)$"):
        check_detector(detector, "mine")
