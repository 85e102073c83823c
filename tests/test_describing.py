"""describe and its command: parameters, multiply-adds and memory, against hand counts and a real training step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rethink_heads.bounds import HEADS
from rethink_heads.config import load_preset
from rethink_heads.describing import (
    Description,
    SavedTensors,
    blocks,
    describe,
    multiply_adds,
    parameter_counts,
    saved_in_heads,
    saved_in_trunk,
)
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.errors import UserError
from rethink_heads.heads import ConvHead, FCHead
from tests.command_line import call, call_json, fails

CPU_SECONDS = 60
M = 2**20  # the paper's
IMAGES, SIDE = 2, 192
SETTINGS = ["model.rois_per_image=32", "model.non_local=true"]


@pytest.fixture(scope="module")
def tiny() -> Description:
    return describe("shapes-tiny")


@pytest.fixture(scope="module")
def coco() -> Description:
    before = time.process_time()
    description = describe("coco-r50")
    assert time.process_time() - before < CPU_SECONDS
    return description


def test_all_heads_of_a_preset_in_one_table(tiny: Description) -> None:
    summary = tiny.summary()
    assert tuple(summary["head"]) == HEADS
    assert (tiny.frame, tiny.images, tiny.rois_per_image) == ((192, 192), 4, 32)
    for row in summary.to_dict("records"):
        real = build_detector(load_preset("shapes-tiny", row["head"]), ["c"] * tiny.classes)
        assert row["parameters"] == sum(p.numel() for p in real.parameters())
        assert row["trained"] == sum(p.numel() for p in real.parameters() if p.requires_grad)
        shared = row["backbone"] + row["fpn"] + row["rpn"]
        assert row["parameters"] == shared + row["branches"]
        memory = tiny.memory.set_index(["head", "precision"]).loc[(row["head"], "32-true")]
        state = real.state_dict().values()
        assert memory["weights"] == sum(v.numel() * v.element_size() for v in state)
        assert memory["gradients"] == memory["momentum"] == 4 * row["trained"]
        assert memory["total"] == row["memory 32-true"] == memory.drop("total").sum()


def test_the_papers_figures(coco: Description) -> None:
    assert (coco.classes, coco.images, coco.rois_per_image) == (80, 8, 512)
    # 800 px and 4:3 of it, in both directions, padded to multiples of 32.
    assert coco.frame == (1088, 1088)
    weights = coco.parts.groupby(["head", "block"])["weights"].first() / M
    assert weights["fc", "fc6"] + weights["fc", "fc7"] == 13.25
    assert round(weights["conv", "residual block"], 2) == 1.06
    assert round(weights["double-ext", "bottleneck block 2"], 2) == 1.06
    assert weights["double", "non-local block 1"] == 2.0
    summary = coco.summary().set_index("head")
    # torchvision's own Faster R-CNN on ResNet-50 with FPN has 41,755,286 parameters with 91 classes, ours 80 + 1, and
    # its frozen normalisation, 53,120 numbers, as buffers.
    classes = 1025 * 5 * (91 - 81)
    backbone = coco.parts.query("head == 'fc' and part == 'backbone'")["parameters"].item()
    assert backbone == 23_508_032
    assert summary.loc["fc", "parameters"] == 41_755_286 - classes + 53_120
    assert summary.loc["double", "branches"] == (
        summary.loc["fc", "branches"] + summary.loc["conv", "branches"]
    )


def test_what_takes_memory(coco: Description) -> None:
    saved = coco.memory.set_index(["head", "precision"])
    heads = saved["heads"].xs("32-true", level="precision")
    assert heads["fc"] < heads["double-fc"] < heads["conv"] < heads["double"] < heads["double-conv"]
    for part in ("backbone", "fpn", "rpn"):
        assert saved[part].groupby("precision").nunique().tolist() == [1, 1]
    # The residual block alone, by hand: of each RoI's 49 cells, the input (once), three normalisations' inputs, and
    # two ReLUs' outputs, in float32; a few numbers by channel aside.
    wide = describe("coco-r50", ["conv"], ["model.conv_blocks=0", "model.conv_enlargement=1"])
    one_roi = 49 * 4 * (256 + (256 + 1024 + 1024) + (256 + 1024))
    found = wide.memory.query("precision == '32-true'")["heads"].item()
    assert found == pytest.approx(8 * 512 * one_roi, rel=0.02)


def test_a_preset_with_a_head_in_its_name_is_that_head_alone(coco: Description) -> None:
    one = describe("coco-r50-double-head-ext")
    assert list(one.summary()["head"]) == ["double-ext"]
    both = coco.summary().query("head == 'double-ext'").reset_index(drop=True)
    pd.testing.assert_frame_equal(one.summary(), both)


def test_overrides_classes_and_frame() -> None:
    def of(
        *overrides: str, classes: int | None = None, frame: tuple[int, int] | None = None
    ) -> Any:
        description = describe("bccd-small", ["single-fc"], overrides, classes, frame)
        return description, description.summary().iloc[0]

    base, row = of()
    assert base.classes == 3
    wider, more = of("model.fc_width=512")
    assert more["branches"] > row["branches"]
    _, bigger = of(classes=80, frame=(640, 640))
    assert bigger["memory 32-true"] > row["memory 32-true"]
    assert bigger["branches"] - row["branches"] == 77 * 5 * 257
    assert wider.frame == base.frame == (320, 320)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["coco-r5"], "unknown preset 'coco-r5'"),
        (["coco-r50", "--head", "triple"], "head"),
        (["coco-r50-fc", "--head", "conv"], "is of head fc, not of head conv"),
        (["shapes-tiny", "--frame", "big"], "cannot read --frame big as HEIGHTxWIDTH"),
        (["shapes-tiny", "model.widths=3"], "unknown setting 'model.widths'"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], says: str) -> None:
    fails("describe", *arguments, says=says)


def test_a_preset_of_ones_own_needs_its_classes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {backbone: tiny, pretrained: false}\n")
    with pytest.raises(UserError, match="how many classes mine has: give --classes N"):
        describe(path, ["fc"])
    assert describe(path, ["fc"], ["model.min_size=64"], 7, (64, 64)).classes == 7


def test_the_command_prints_and_writes_the_tables(tmp_path: Path) -> None:
    arguments = ["describe", "shapes-tiny-double-head", "--output", str(tmp_path / "tables")]
    output = call(*arguments)
    assert "residual block" in output
    assert "double" in output
    summary = pd.read_csv(tmp_path / "tables" / "summary.csv")
    expected = describe("shapes-tiny", ["double"])
    pd.testing.assert_frame_equal(summary, expected.summary(), check_dtype=False)
    parts = pd.read_csv(tmp_path / "tables" / "parts.csv")
    pd.testing.assert_frame_equal(parts, expected.parts, check_dtype=False)
    content = call_json("describe", "shapes-tiny-double-head")["tables"]
    assert content["summary"] == json.loads(expected.summary().to_json(orient="records"))
    assert content["description"][0]["frame"] == [192, 192]


SMALL: dict[str, Callable[[], FCHead | ConvHead]] = {
    "fc": lambda: FCHead(5, channels=12, resolution=7, width=20),
    "conv, no blocks": lambda: ConvHead(5, 12, width=24, bottleneck=6, blocks=0),
    "conv with non-local": lambda: ConvHead(5, 12, 24, 6, 2, non_local=True, non_local_groups=3),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_branch_is_the_sum_of_its_blocks(name: str) -> None:
    branch = SMALL[name]()
    counts = {block: parameter_counts(module) for block, module in blocks(branch).items()}
    whole = sum(p.numel() for p in branch.parameters())
    assert sum(count["parameters"] for count in counts.values()) == whole
    assert list(multiply_adds(branch, channels=12, resolution=7)) == list(counts)
    assert branch.training  # left as it was
    branch.predictor.bbox_pred.requires_grad_(False)
    frozen = parameter_counts(branch.predictor.bbox_pred)
    assert frozen == {**counts["regressor"], "trained": 0}


def test_frozen_normalisation_counts_as_parameters() -> None:
    from torchvision.ops import FrozenBatchNorm2d

    trainable, frozen = torch.nn.BatchNorm2d(7), FrozenBatchNorm2d(7)
    assert parameter_counts(trainable) == {"parameters": 14, "weights": 0, "trained": 14}
    assert parameter_counts(frozen) == {"parameters": 14, "weights": 0, "trained": 0}


def test_multiply_adds_by_hand() -> None:
    with torch.device("meta"):
        fc, conv = FCHead(80), ConvHead(80, non_local=True)
        per_fc, per_conv = (multiply_adds(head, 256, 7, device="meta") for head in (fc, conv))
    # A linear layer multiplies each weight once, a convolution each weight once a position, a non-local block also
    # every pair of positions, twice.
    assert per_fc["fc6"] + per_fc["fc7"] == 13.25 * M
    assert per_fc["classifier"] == 81 * 1024
    assert per_conv["residual block"] == 49 * 1.0625 * M
    assert per_conv["non-local block 1"] == 49 * 2 * M + 2 * 512 * 49**2


def detector(head: str) -> RCNN:
    config = load_preset("shapes-tiny", head, SETTINGS)
    return build_detector(config, ["a", "b", "c"], pretrained=False).train()


def computed(head: str, precision: str) -> dict[str, int]:
    with FakeTensorMode():
        fake = detector(head)
        trunk, pyramid = saved_in_trunk(fake, (SIDE, SIDE), IMAGES, precision)
        heads = saved_in_heads(fake, pyramid, IMAGES, precision)
    return {**trunk, "heads": sum(heads.values())}


def step(real: RCNN) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(3, SIDE, SIDE, generator=random) for _ in range(IMAGES)]
    boxes = torch.tensor([[10.0, 20.0, 90.0, 80.0], [60.0, 50.0, 150.0, 180.0]])
    target = {"boxes": boxes, "labels": torch.tensor([0, 2])}
    # Proposals about the objects, so that the sample has its full share of positives.
    steps = torch.arange(200).float()[:, None]
    proposals = [torch.cat([boxes[:1] + steps / 20, boxes[:1] + 40 + steps / 2]) for _ in images]
    select = real.roi_heads.select_training_samples

    def sample(_: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        return select(proposals, targets)

    with patch.object(real.roi_heads, "select_training_samples", sample):
        return real(images, [target] * IMAGES)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("head", ["fc", "conv", "double-ext"])
def test_a_real_step_saves_as_much(head: str, precision: str) -> None:
    torch.manual_seed(0)
    real = detector(head)
    saved = SavedTensors(real)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "32-true")
    with saved.part("all"), autocast:
        losses = step(real)
    assert all(torch.isfinite(loss) for loss in losses.values())
    # Only what depends on values differs: how many anchors are positive, a few rows of four numbers.
    assert saved.bytes["all"] == pytest.approx(sum(computed(head, precision).values()), rel=1e-3)


def test_a_saved_tensor_counts_once_and_weights_do_not() -> None:
    linear = torch.nn.Linear(8, 8)
    saved = SavedTensors(linear)
    with saved.part("one"):
        x = torch.rand(16, 8, requires_grad=True)
        y = linear(x).exp()  # saves x, the weight, and y
        z = y.view(4, 32) * 2.0  # saves nothing
        torch.relu(z)  # saves its output
        torch.exp(y)  # saves its output
    assert saved.bytes == {"one": 4 * 16 * 8 * 4}


def test_memory_grows_with_rois_and_images_as_it_must() -> None:
    config = load_preset("shapes-tiny", "double-ext")
    with FakeTensorMode():
        fake = build_detector(config, ["a"], pretrained=False).train()
        _, pyramid = saved_in_trunk(fake, (SIDE, SIDE), 1)

        def heads(images: int, rois: int) -> int:
            fake.roi_heads.fg_bg_sampler.batch_size_per_image = rois
            return sum(saved_in_heads(fake, pyramid, images).values())

        # Statistics of normalisation aside, what a RoI saves does not depend on the others.
        one, two, four = heads(1, 64), heads(2, 64), heads(1, 256)
    assert four - one == 3 * (two - one)
