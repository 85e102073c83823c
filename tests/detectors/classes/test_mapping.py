"""Classes matched by name and by file, and a detector seen through the match."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import resolve_split
from rethink_heads.detectors.base import (
    CAPABILITIES,
    Detections,
    HeadOutput,
    SupportsFastPath,
    supports,
)
from rethink_heads.detectors.classes.map_file import read_class_map
from rethink_heads.detectors.classes.mapping import ClassMatch, MappedDetector, match_classes
from rethink_heads.errors import UserError

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)


class Minimal(nn.Module):
    """Three classes and a hole, one head; every class's score and box tell its index."""

    class_names: tuple[str, ...] = ("red", "N/A", "green", "blue")
    heads = ("box",)
    device = torch.device("cpu")

    def extract(self, image: Tensor) -> str:
        return f"features of {tuple(image.shape)}"

    def pool(self, features: str, boxes: Tensor) -> dict[str, Tensor]:
        return {"box": boxes.new_zeros(len(boxes), 1, 2, 2)}

    def predict(
        self, features: str, roi_features: dict[str, Tensor], boxes: Tensor
    ) -> dict[str, HeadOutput]:
        shifts = torch.arange(4.0).repeat(len(boxes), 1)
        return {"box": HeadOutput(shifts / 4, boxes[:, None] + shifts[..., None])}


class Full(Minimal):
    """All optional methods."""

    def propose(self, image: Tensor) -> tuple[str, Tensor]:
        return self.extract(image), torch.zeros(3, 4)

    def detect(self, image: Tensor) -> dict[str, Detections]:
        labels = torch.tensor([3, 0, 1, 2, 3])
        return {"box": Detections(labels[:, None].repeat(1, 4), labels / 10, labels)}

    def output_maps(self, roi_features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"box": roi_features["box"]}

    def weight_maps(self) -> dict[str, Tensor]:
        return {"box": torch.ones(5, 2, 2)}


@settings(deadline=None)
@given(ours=NAMES, theirs=NAMES)
def test_what_is_matched_has_one_name(ours: list[str], theirs: list[str]) -> None:
    if not set(ours) & set(theirs):
        with pytest.raises(UserError, match="none of the dataset's classes"):
            match_classes(ours, theirs)
        return
    match = match_classes(ours, theirs)
    assert match.matched == tuple(name for name in ours if name in theirs)
    assert [theirs[label] for label in match.matched_labels] == list(match.matched)
    assert set(match.only_dataset) == set(ours) - set(theirs)
    assert set(match.only_detector) == set(theirs) - set(ours)
    assert match.is_identity == (ours == theirs)
    table = match.table()
    assert set(table["dataset_class"]) - {""} == set(ours)
    assert set(table["detector_class"]) - {""} == set(theirs)


def test_spelling_does_not_matter_but_the_same_spelling_comes_first() -> None:
    match = match_classes(
        ["Traffic_Light", "tv", "t-shirt"], ["T SHIRT", "t-shirt", "traffic light", "T-V"]
    )
    assert match.labels == (2, 3, 1)
    assert match.only_detector == ("T SHIRT",)


def test_a_class_map_wins_and_leaves_out() -> None:
    ours, theirs = ["aeroplane", "car", "van", "sofa"], ["car", "airplane", "couch", "N/A", "n/a"]
    match = match_classes(ours, theirs, {"Aeroplane": "Airplane", "van": "car", "sofa": None})
    assert match.labels == (1, None, 0, None)
    assert match.matched == ("aeroplane", "van")
    assert match.only_dataset == ("car", "sofa")
    assert match.only_detector == ("couch",)
    assert match.table().to_dict("list") == {
        "dataset_class": ["aeroplane", "car", "van", "sofa", ""],
        "detector_class": ["airplane", "", "car", "", "couch"],
        "note": ["by the class map", "", "by the class map", "left out by the class map", ""],
    }


def test_the_table_names_the_nearest_unmatched_class() -> None:
    match = match_classes(["dog", "aeroplane", "cow"], ["dog", "airplane"])
    assert match.table()["note"].tolist() == ["", "nearest: airplane", "", "nearest: aeroplane"]


def test_identity_is_of_names_and_order() -> None:
    assert match_classes(["a", "b"], ["a", "b"]).is_identity
    assert not match_classes(["a", "b"], ["b", "a"]).is_identity
    assert not match_classes(["A", "b"], ["a", "b"]).is_identity
    assert not match_classes(["a"], ["a", "N/A"]).is_identity
    assert not match_classes(["a", "b"], ["a", "b"], {"a": "b", "b": "a"}).is_identity
    # What is in both is a match, whatever it is called.
    assert match_classes(["a", "N/A", "N/A"], ["a", "N/A", "N/A"]).is_identity


@pytest.mark.parametrize(
    ("given_map", "message"),
    [
        ({"dgo": "dog"}, r"names 'dgo', which the dataset does not have; did you mean 'dog'\?"),
        ({"dog": "ct"}, r"names 'ct', which the detector does not have; did you mean 'cat'\?"),
        (
            {"dog": "zzz"},
            r"'zzz', which the detector does not have; it has dog, cat, eel, cat, ox and 1 more",
        ),
        ({"dog": "ox", "owl": "ox"}, r"gives the detector's class 'ox' to 'dog' and 'owl'"),
        ({"dog": "ox", "DOG": None}, r"names the dataset's class 'dog' twice"),
        ({"dog": "cat"}, r"the detector has 2 classes named 'cat'"),
    ],
)
def test_mistakes_of_a_class_map(given_map: Mapping[str, str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_classes(["dog", "owl"], ["dog", "cat", "eel", "cat", "ox", "hen"], given_map)


def test_names_that_are_there_twice() -> None:
    with pytest.raises(UserError, match="the dataset has 2 classes named 'dog'"):
        match_classes(["dog", "dog"], ["dog"])
    with pytest.raises(UserError, match="the detector has 2 classes named 'crane'"):
        match_classes(["crane", "dog"], ["crane", "dog", "crane"])
    assert match_classes(["crane", "dog"], ["crane", "dog", "crane"], {"crane": None}).labels == (
        None,
        1,
    )


def test_nothing_in_common_says_both_lists_and_the_option() -> None:
    with pytest.raises(UserError) as caught:
        match_classes(["WBC", "RBC"], [f"class {n}" for n in range(9)])
    assert "(WBC, RBC)" in str(caught.value)
    assert "class 3, class 4 and 4 more" in str(caught.value)
    assert "--class-map" in str(caught.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_80_classes_of_coco_are_among_torchvisions_90(shared_data: Path, split: str) -> None:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    dataset = CocoDataset(*resolve_split(str(shared_data / "coco-sample"), split))
    match = match_classes(dataset.class_names, names)
    assert (len(dataset.class_names), len(names)) == (80, 90)
    # torchvision numbers its classes by COCO's ids.
    assert tuple(label + 1 for label in match.matched_labels) == dataset.category_ids
    assert match.only_dataset == match.only_detector == ()
    assert not match.is_identity
    assert len(match.table()) == 80
    assert dataset.with_classes(match.matched).fingerprint == dataset.fingerprint


def test_torchvisions_detector_speaks_of_cocos_80_classes(shared_data: Path) -> None:
    from rethink_heads.detectors.opening.models import open_model

    name = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
    detector: Any = open_model(name, "random", None, "cpu")
    dataset = CocoDataset(*resolve_split(str(shared_data / "coco-sample"), "val"))
    mapped: Any = MappedDetector(detector, match_classes(dataset.class_names, detector.class_names))
    assert mapped.class_names == dataset.class_names
    sample = dataset[0]
    # torchvision's class of index i has COCO's id i + 1.
    places = torch.tensor(dataset.category_ids) - 1
    with torch.inference_mode():
        features = detector.extract(sample.image)
        given_to = (features, detector.pool(features, sample.boxes), sample.boxes)
        ours, theirs = (each.predict(*given_to)["fc"] for each in (mapped, detector))
        found, all_found = (each.detect(sample.image)["fc"] for each in (mapped, detector))
    assert torch.equal(ours.scores, theirs.scores[:, places])
    assert torch.equal(ours.boxes, theirs.boxes[:, places])
    kept = torch.isin(all_found.labels, places)
    assert 0 < kept.sum() < len(kept)
    assert torch.equal(places[found.labels], all_found.labels[kept])
    assert torch.equal(found.boxes, all_found.boxes[kept])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.yaml", "dog: Hund\n# by hand\n'no': null\n"),
        ("map.json", json.dumps({"dog": "Hund", "no": None})),
    ],
)
def test_class_maps_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_class_map(tmp_path / name) == {"dog": "Hund", "no": None}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("map.yaml", "[dog, cat]", "holds no mapping"),
        ("map.yaml", "", "holds no mapping"),
        ("map.yaml", "dog: [", "is not YAML"),
        ("map.json", "{", "is not JSON"),
        ("map.yaml", "no: yes", r"False \(in the entry of False\) is not a name"),
        ("map.yaml", "dog: 3", r"3 \(in the entry of 'dog'\) is not a name"),
        ("map.yaml", "null: dog", r"None \(in the entry of None\) is not a name"),
    ],
)
def test_files_that_are_no_class_maps(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_class_map(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such class map: .*none\.yaml"):
        read_class_map(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot read class map"):
        read_class_map(tmp_path)
    (tmp_path / "map.yaml").write_bytes(b"a: b\nc: \xff\n")
    with pytest.raises(UserError, match="line 2: byte 0xff is not UTF-8"):
        read_class_map(tmp_path / "map.yaml")


def mapped(detector: Minimal) -> MappedDetector:
    return MappedDetector(detector, match_classes(["blue", "pink", "Red"], detector.class_names))


def test_scores_boxes_and_detections_in_the_datasets_order() -> None:
    detector = mapped(Full())
    assert detector.class_names == ("blue", "Red")
    assert (detector.heads, detector.device) == (("box",), torch.device("cpu"))
    boxes = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    features = detector.extract(torch.zeros(3, 5, 6))
    output = detector.predict(features, detector.pool(features, boxes), boxes)["box"]
    assert output.scores.tolist() == [[0.75, 0], [0.75, 0]]
    assert output.boxes.tolist() == torch.stack([boxes + 3, boxes], dim=1).tolist()
    found = detector.detect(torch.zeros(3, 5, 6))["box"]
    assert found.labels.tolist() == [0, 1, 0]
    assert found.boxes[:, 0].tolist() == [3, 0, 3]
    torch.testing.assert_close(found.scores, torch.tensor([0.3, 0, 0.3]))
    assert detector.propose(torch.zeros(3, 5, 6))[0] == features == "features of (3, 5, 6)"
    pooled = detector.pool(features, boxes)
    assert detector.output_maps(pooled)["box"].shape == (2, 1, 2, 2)
    assert detector.weight_maps()["box"].shape == (5, 2, 2)


def test_no_boxes_and_no_detections_keep_their_shapes() -> None:
    detector = mapped(Full())
    none = torch.zeros(0, 4)
    output = detector.predict("", {}, none)["box"]
    assert (output.scores.shape, output.boxes.shape) == ((0, 2), (0, 2, 4))
    found = detector._renumbered(Detections(none, none[:, 0], torch.tensor([1, 1])[:0]))
    assert (found.boxes.shape, found.labels.shape) == ((0, 4), (0,))


@pytest.mark.parametrize("kept", [[], ["detect"], ["propose", "weight_maps"], list(CAPABILITIES)])
def test_it_offers_what_the_detector_offers(kept: list[str]) -> None:
    methods = {name: getattr(Full, name) for name in kept}
    inner = type("Some", (Minimal,), methods)()
    detector = mapped(inner)
    for method in CAPABILITIES:
        assert supports(detector, method) == supports(inner, method) == (method in kept)
    assert not isinstance(detector, SupportsFastPath)


def test_a_module_is_put_into_eval_mode() -> None:
    module = Full()
    assert module.training
    mapped(module)
    assert not module.training


def test_a_match_of_another_detector_is_refused() -> None:
    match = ClassMatch(("a",), ("a", "b"), (0,))
    with pytest.raises(UserError, match="matched with a, b, but the detector's are red"):
        MappedDetector(Full(), match)
