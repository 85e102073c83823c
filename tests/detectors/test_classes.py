"""Classes matched by name and by file, and data that a detector with other classes is measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.config import MeasuringConfig
from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.sources import resolve_split
from rethink_heads.detectors.base import Detections, HeadOutput
from rethink_heads.detectors.classes import (
    class_columns,
    in_data_labels,
    match_classes,
    read_class_map,
    read_class_names,
    share_classes,
)
from rethink_heads.errors import UserError
from rethink_heads.measure.runner import measure
from rethink_heads.statistics.by_iou import score_by_iou
from tests.detectors.colours import Colours
from tests.tiny_coco import write_coco

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)


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
    assert not match_classes(["A", "b"], ["a", "b"]).is_identity
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


def test_all_80_classes_of_coco_are_among_torchvisions_90(shared_data: Path) -> None:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    dataset = CocoDataset(*resolve_split(str(shared_data / "coco-sample"), "val"))
    match = match_classes(dataset.class_names, names)
    assert (len(dataset.class_names), len(names)) == (80, 90)
    # torchvision numbers its classes by COCO's ids.
    assert tuple(label + 1 for label in match.matched_labels) == dataset.category_ids
    assert match.only_dataset == match.only_detector == ()
    assert not match.is_identity
    assert len(match.table()) == 80
    assert dataset.with_classes(match.matched).fingerprint == dataset.fingerprint


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
        (
            "map.json",
            '{"dog": "Hund", "cat": "Katze", "dog": null}',
            "has the key 'dog' twice; fix",
        ),
        ("map.yaml", "no: yes", r"False \(in the entry of False\) is not a name"),
        ("map.yaml", "dog: 3", r"3 \(in the entry of 'dog'\) is not a name"),
        ("map.yaml", "dog: Hund\ndog: Katze", "twice|duplicate|dog"),
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


@pytest.mark.parametrize(
    ("source", "text", "names"),
    [
        ("names.txt", "\ufeffperson\r\n\n traffic light \n", ("person", "traffic light")),
        ("person, traffic light,car", None, ("person", "traffic light", "car")),
        ("person,", None, ("person",)),
        ("a,b.txt", "cat\n", ("cat",)),
    ],
)
def test_class_names_are_a_file_or_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, text: str | None, names: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / source).write_text(text)
    assert read_class_names(source) == names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("person", "no such file of class names: person"),
        ("cat,dog,cat", "'cat,dog,cat' has 'cat' twice; write each class once, with commas"),
        (",", "has no names"),
    ],
)
def test_what_are_no_class_names(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_class_names(source)


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    write_coco(tmp_path, images=4)
    return CocoDataset(tmp_path / "annotations" / "instances_val.json", tmp_path / "val")


def detector_of(*names: str) -> Any:
    """A detector of these classes, whose score and detections tell their index."""
    detector: Any = Colours()
    detector.class_names = names
    shifts = torch.arange(len(names)) / 10
    detector.predict = lambda features, pooled, boxes: {
        "colour": HeadOutput(
            shifts.expand(len(boxes), -1), boxes[:, None].expand(-1, len(names), 4)
        )
    }
    labels = torch.arange(len(names))
    detector.detect = lambda image: {
        "colour": Detections(torch.tensor([[0.0, 0, 9, 9]]).expand(len(names), 4), shifts, labels)
    }
    return detector


def test_data_keep_the_objects_of_the_detectors_classes(dataset: CocoDataset) -> None:
    same = share_classes(detector_of("red", "green"), dataset)
    assert same.dataset.class_names == dataset.class_names == ("red", "green")
    assert same.provenance == {}
    shared = share_classes(detector_of("blue", "N/A", "green"), dataset)
    assert shared.dataset.class_names == ("green",)
    assert shared.dataset.columns == (2,)
    assert shared.provenance["class mapping"] == '[["green", "green"]]'
    assert shared.provenance["annotations"] == dataset.fingerprint
    mapped = share_classes(detector_of("blue", "green"), dataset, {"red": "blue"})
    assert mapped.dataset.class_names == ("red", "green")
    assert mapped.provenance == {
        "class mapping": '[["red", "blue"], ["green", "green"]]',
        "score columns": "[0, 1]",
    }
    fewer = mapped.dataset.with_classes(["green"])
    assert class_columns(mapped.detector, fewer).tolist() == [1]


def test_classes_renamed_on_the_detectors_side_are_other_columns(dataset: CocoDataset) -> None:
    orders = (("red", "green", "blue"), ("green", "red", "blue"), ("blue", "red", "green"))
    found = [share_classes(detector_of(*names), dataset).provenance for names in orders]
    assert len({tuple(sorted(each.items())) for each in found}) == 3
    assert found[1]["score columns"] == "[1, 0]"


def test_classes_must_be_shared_before_measuring(dataset: CocoDataset) -> None:
    assert class_columns(detector_of("red", "green"), dataset).tolist() == [0, 1]
    says = r"only the data has red; only the detector has pink; .* rh\.share_classes\(detector, dataset\)"
    with pytest.raises(UserError, match=says):
        measure(detector_of("pink", "green"), dataset)
    with pytest.raises(UserError, match="the order differs: the detector has green, red and the"):
        class_columns(detector_of("green", "red"), dataset)
    many = detector_of(*(f"class {index}" for index in range(30)))
    with pytest.raises(UserError, match="class 26 and 10 more; give the data"):
        class_columns(many, dataset)
    shared = share_classes(detector_of("green", "red"), dataset)
    with pytest.raises(UserError, match="matched with green, red, but the detector's are red"):
        class_columns(detector_of("red", "green"), shared.dataset)


def test_scores_and_detections_are_those_of_the_matched_columns(dataset: CocoDataset) -> None:
    shared = share_classes(detector_of("blue", "Green", "N/A", "RED"), dataset)
    for name, score in (("red", 0.3), ("green", 0.1)):
        one = shared.dataset.with_classes([name])
        few = MeasuringConfig(grid_steps=3)
        measured = measure(shared.detector, one, config=few, progress=False)
        means = score_by_iou(measured, replicates=2)["mean"].dropna()
        assert means.to_list() == pytest.approx([score] * len(means))
    columns = class_columns(shared.detector, shared.dataset)
    found = in_data_labels(shared.detector.detect(None), columns)["colour"]
    assert found.labels.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.1, 0.3]))
    assert found.boxes.shape == (2, 4)
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert in_data_labels({"colour": none}, columns)["colour"].boxes.shape == (0, 4)
