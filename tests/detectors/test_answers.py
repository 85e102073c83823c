"""What is checked of a user's own detector: each mistake is named, and the check leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rethink_heads.detectors.answers import check_detector
from rethink_heads.detectors.base import Detections, HeadOutput
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


def said(change: Callable[[HeadOutput], Any]) -> Callable[..., dict[str, Any]]:
    """A ``predict`` that answers with something else."""
    return lambda *given: {"colour": change(Colours().predict(*given)["colour"])}


def found(boxes: Any, scores: Any, labels: Any) -> Callable[[Tensor], dict[str, Detections]]:
    """A ``detect`` of these boxes, scores and labels."""
    parts = (torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))
    return lambda image: {"colour": Detections(*parts)}


BOX = [0.0, 0.0, 10.0, 10.0]
MISTAKES: list[tuple[str, Any, str]] = [
    ("class_names", "red", "`class_names` of mine is 'red'"),
    ("class_names", ("\udcff", "b"), "`class_names` of mine has a name that is no text"),
    ("heads", (), r"`heads` of mine is \(\)"),
    (
        "heads",
        ("colour", "colour"),
        r"`heads` of mine is \('colour', 'colour'\): each needs a name of its own",
    ),
    ("heads", ("../colour",), r"`heads` of mine is \('../colour',\): .* without '/'"),
    ("device", None, "`device` of mine is None, where a torch.device"),
    ("pool", lambda f, b: f, "`pool` of mine gave .* where a dict of tensors"),
    (
        "pool",
        lambda f, b: {"box": torch.zeros(1, 3, 7, 7)},
        r"`pool` of mine gave \{box: shape \(1, 3, 7, 7\)\} for 3 boxes",
    ),
    (
        "pool",
        lambda f, b: {"box": torch.zeros(len(b), 1, 5, 7)},
        r"gave \{box: shape \(3, 1, 5, 7\)\} for 3 boxes, where .* \(3, C, S, S\)",
    ),
    ("predict", lambda f, r, b: {"other": torch.zeros(1)}, r"`predict` of mine gave \{other: "),
    ("predict", said(lambda out: out.scores), "where a HeadOutput is expected"),
    (
        "predict",
        said(lambda out: HeadOutput(out.scores.long(), out.boxes)),
        r"scores of shape \(3, 2\) of int64, strided, where floating-point numbers",
    ),
    (
        "predict",
        said(lambda out: HeadOutput(out.scores.to_sparse(), out.boxes)),
        r"gave scores of shape \(3, 2\) of float32, sparse_coo, where",
    ),
    (
        "predict",
        said(lambda out: HeadOutput(out.scores.numpy(), out.boxes)),
        r"gave scores of a NumPy array of shape \(3, 2\), where",
    ),
    (
        "predict",
        said(lambda out: HeadOutput(out.scores.repeat(1, 2)[:, :3], out.boxes)),
        r"scores of shape \(3, 3\), where .* the shape \(3, 2\) are expected: 3 boxes, 2 classes",
    ),
    (
        "predict",
        said(lambda out: HeadOutput(out.scores, out.boxes[:, 0])),
        r"gave boxes of shape \(3, 4\), where .* the shape \(3, 2, 4\)",
    ),
    (
        "predict",
        said(lambda out: HeadOutput(out.scores * torch.nan, out.boxes)),
        "gave scores that are not finite",
    ),
    (
        "predict",
        said(lambda out: HeadOutput(out.scores.logit() - 5, out.boxes)),
        "scores outside 0 to 1; probabilities are expected",
    ),
    (
        "predict",
        said(lambda out: HeadOutput(out.scores, out.boxes * 2)),
        "boxes outside the image or upside down",
    ),
    (
        "propose",
        lambda image: torch.zeros(2, 4),
        r"`propose` of mine gave shape \(2, 4\), where the image's features and boxes \(M, 4\)",
    ),
    (
        "propose",
        lambda image: (torch.zeros(1), torch.zeros(4)),
        r"`propose` of mine gave \(shape \(1,\), shape \(4,\)\)",
    ),
    (
        "detect",
        lambda image: Detections(torch.tensor([BOX]), torch.ones(1), torch.ones(1).long()),
        "`detect` of mine gave .* where a dict of Detections by the heads colour",
    ),
    (
        "detect",
        found([BOX], [[0.5, 0.5]], [1]),
        r"`detect` of mine \(colour\) gave boxes of shape \(1, 4\), scores of shape \(1, 2\)",
    ),
    (
        "detect",
        found([BOX, BOX], [0.5, 0.4], [1, 2]),
        "`detect` of mine .* gave the label 2, where 0 to 1 are expected: 2 classes without",
    ),
    (
        "detect",
        found([BOX], [1j], [0]),
        r"\(colour\) gave boxes of .*, scores of shape \(1,\) of complex64",
    ),
    ("detect", found([BOX], [0.5], [1.0]), "gave labels of type torch.float32, where integers"),
    ("detect", found([BOX, BOX], [0.4, 0.5], [1, 1]), "detections out of order; the best first"),
    ("detect", found([BOX], [1.5], [0]), "`detect` of mine .* gave scores outside 0 to 1"),
    ("detect", found([BOX], [torch.nan], [0]), "`detect` of mine .* that are not finite"),
    (
        "output_maps",
        lambda pooled: {"box": pooled["box"].flatten(1)},
        r"`output_maps` of mine gave \{box: shape \(3, 147\)\}, where .* \(3, C, S, S\)",
    ),
    (
        "weight_maps",
        lambda: {"fc": torch.ones(12, 5, 7)},
        r"`weight_maps` of mine gave \{fc: shape \(12, 5, 7\)\}, where .* \(W, S, S\)",
    ),
]


def test_a_detector_with_everything_passes() -> None:
    check_detector(Full())


@pytest.mark.parametrize(("name", "value", "says"), MISTAKES)
def test_each_mistake_is_named(name: str, value: Any, says: str) -> None:
    detector = Full()
    setattr(detector, name, value)
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
