"""Presets, overrides and what is said when a setting is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink_heads.bounds import HEAD_ALIASES, HEADS
from rethink_heads.config import Config, ConventionsConfig, load_preset
from rethink_heads.data.sources import split_paths
from rethink_heads.errors import UserError
from rethink_heads.settings import preset_names

SOURCES = {
    "shapes-tiny": "shapes",
    **dict.fromkeys(("bccd-small", "coco-r50", "coco-r101", "voc07-r50", "voc0712-r50")),
}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset(name: str, tmp_path: Path) -> None:
    config = load_preset(name, seed=3)
    assert (config.preset, config.head, config.seed) == (name, "double-ext", 3)
    assert (set(SOURCES), config.data.source) == (set(preset_names()), SOURCES[name])
    # What the authors' code does, and what its presets alone do.
    assert config.model.conventions.roi_level_from == "proposal"
    paper = name.startswith(("coco", "voc"))
    training = config.training
    bias_settings = (training.bias_learning_rate_factor, training.bias_weight_decay)
    assert bias_settings == ((2.0, 0.0) if paper else (1.0, None))
    assert config.model.rpn_cross_boundary_anchors is not paper
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert Config.from_yaml(tmp_path / "config.yaml") == config
    # Far within the bounds: twice and half of the sizes of heads and data can be trained.
    sizes = ("fc_width", "conv_width", "conv_bottleneck", "min_size", "max_size", "fpn_channels")
    for factor in (0.5, 2):
        changed = [f"model.{size}={int(getattr(config.model, size) * factor)}" for size in sizes]
        model = load_preset(name, overrides=changed).model
        assert model.fc_width == int(config.model.fc_width * factor)


@pytest.mark.parametrize("name", ["coco-r50", "coco-r101"])
def test_the_papers_recipe(name: str) -> None:
    """Numbers of the authors' code, for 4 GPUs with 2 images each."""
    config = load_preset(name)
    model, training = config.model, config.training
    assert model.backbone == name.replace("coco-r", "resnet")
    assert (model.min_size, model.max_size) == (800, 1333)
    assert (model.fc_width, model.conv_width, model.conv_bottleneck) == (1024, 1024, 256)
    assert (model.conv_blocks, model.non_local, model.non_local_groups) == (2, True, 4)
    assert (model.rois_per_image, model.positive_fraction) == (512, 0.25)
    assert (model.rpn_proposals_train, model.rpn_proposals_test) == (2000, 1000)
    assert (training.batch_size, training.learning_rate) == (8, 0.01)
    assert (training.max_iterations, training.milestones) == (180_000, [120_000, 160_000])
    assert (training.warmup_iterations, training.warmup_factor) == (500, pytest.approx(1 / 3))
    assert (training.momentum, training.weight_decay) == (0.9, 1e-4)


@pytest.mark.parametrize(("name", "images"), [("voc07-r50", 5011), ("voc0712-r50", 16551)])
def test_voc_has_the_papers_recipe_but_for_its_length(name: str, images: int) -> None:
    config, paper = load_preset(name), load_preset("coco-r50")
    assert config.model == paper.model
    assert config.data.test_split == "test07"
    lengths = {"max_iterations", "milestones", "validate_every", "validate_images"}
    lengths.add("checkpoint_every")
    training = config.training
    assert training.model_dump(exclude=lengths) == paper.training.model_dump(exclude=lengths)
    # The paper's steps on COCO, 120k and 160k of 180k, and the passes of FPN baselines on VOC.
    assert [step / training.max_iterations for step in training.milestones] == [2 / 3, 8 / 9]
    passes = training.max_iterations * training.batch_size / images
    assert passes == pytest.approx(17.4, abs=0.2)


def test_the_level_of_rois_can_be_chosen(tmp_path: Path) -> None:
    override = "model.conventions.roi_level_from=enlarged"
    assert load_preset("coco-r50", "conv", [override]).model.conventions == ConventionsConfig()
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {conventions: {roi_level_from: enlarged}}\n")
    assert load_preset(mine).model.conventions.roi_level_from == "enlarged"


def test_overrides_of_every_kind(tmp_path: Path) -> None:
    config = load_preset(
        "shapes-tiny",
        "fc",
        [
            "training.max_iterations=100",
            "training.learning_rate=1e-3",
            "training.milestones=[50, 80]",
            "training.validate_images=none",
            "training.flip=false",
            "model.backbone=resnet18",
            "model.l_fc=null",
            f"data.source={tmp_path}",
            "measuring.proposals_per_object = 300",
            "seed=7",
        ],
    )
    assert config.training.max_iterations == 100
    assert config.training.learning_rate == 0.001
    assert config.training.milestones == [50, 80]
    assert config.training.validate_images is None
    assert config.training.flip is False
    assert config.model.backbone == "resnet18"
    assert config.model.l_fc is None
    assert config.data.source == str(tmp_path)
    assert config.measuring.proposals_per_object == 300
    assert config.seed == 7
    with pytest.raises(ValueError, match="frozen"):
        config.training.max_iterations = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", ["2007", "~nobody-of-this-name", "~{}"])
def test_what_looks_like_a_number_or_a_home_is_a_folder(name: str) -> None:
    data = load_preset("coco-r50", "fc", [f"data.source={name}", f"data.test_images={name}"]).data
    assert data.source == str(Path(name).absolute())
    assert data.test_images == Path(name).absolute()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_iteration=1", "unknown setting 'training.max_iteration'.*'training.max_ite"),
        ("max_iterations=1", "did you mean 'training.max_iterations'"),
        ("model.bacbone=tiny", "did you mean 'model.backbone'"),
        ("trainign.batch_size=1", "did you mean 'training.batch_size'"),
        ("zork=1", r"unknown setting 'zork'.*training\.\*"),
        ("training.max_iterations=many", "bad value for training.max_iterations.*'many'"),
        ("model.conventions.roi_level_from=both", "roi_level_from.*'both'"),
        ("training=5", "bad value for training"),
        ("model.backbone=vgg", "bad value for model.backbone.*'resnet50'"),
        ("model.anchor_sizes=[32, 64]", "bad value for model.anchor_sizes"),
        ("model.min_size=5000", r"model.min_size \(5000\) is above model.max_size"),
        ("measuring.grid_steps=10", "measuring.grid_steps.*must be odd"),
        ("head=fcc", "bad value for head.*'double-ext'"),
        ("model.min_size.x=5", "'model.min_size.x': 'min_size' is 800, which has no settings"),
        ("max_iterations", "write key=value"),
        ("=5", "write key=value"),
        ("training..x=5", "write key=value"),
        ("model.fc_width=1000000000000", "'1000000000000': must be 1 to 16,384"),
        (f"model.fc_width={'9' * 400}", r"'9+ \.\.\. 9+': must be 1 to 16,384"),
        ("model.min_size=1", "model.min_size .*'1': must be 32 to 10,000"),
        ("training.learning_rate=inf", "training.learning_rate .*finite"),
        ("training.learning_rate=-1", "must be 1e-12 to 100"),
        ("training.weight_decay=1e9", "must be 0 to 1"),
        ("model.conv_enlargement=1e-9", "must be 0.1 to 10"),
        ("model.anchor_sizes=[0, 1, 2, 3, 4]", "model.anchor_sizes.0 .*must be 1 to 10,000"),
        (f"model.anchor_ratios=[{'1,' * 3000}]", r" \.\.\. .*at most 20 items"),
        ("model.image_std=[0, 1, 1]", "must be 1e-06 to 1000"),
        ("model.conventions={pad_multiple: 320000}", "must be 32 to 1,024"),
        ("model.roi_resolution=64", "model.fc_width .* a head of 1,074,790,400 weights, more than"),
        ("model.conv_bottleneck=16000", "model.conv_width and the sizes beside it give a head of"),
        ("model.conv_width=1", "half of model.conv_width .0. is not divisible"),
        ("model.non_local_groups=3", r"conv_width \(512\) is not divisible by.*\(3\)"),
        ("data.source=a\0b", r"bad value for data.source .*it has U\+0000"),
        ("data.test_images=a\ud800", r"bad value for data.test_images .*it has U\+D800"),
        (f"{'a.' * 3000}b=1", r"unknown setting 'a.*\.\.\..*b'"),
        (f"training={{{'a: {' * 30}{'}' * 30}}}", "unknown setting 'training.a.a"),
    ],
)
def test_what_is_out_of_bounds_is_told_in_a_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        load_preset("coco-r50", "double-ext", [override])
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


MODEL_NUMBERS = (
    "fpn_channels roi_resolution sampling_ratio fc_width conv_width conv_bottleneck conv_blocks"
    " rpn_proposals_train rpn_proposals_test rois_per_image detections_per_image min_size max_size"
)
NUMBERS = [f"model.{name}" for name in MODEL_NUMBERS.split()]
NUMBERS += ["training.max_iterations", "training.batch_size", "training.workers", "seed"]
NUMBERS += ["measuring.grid_steps", "measuring.rows_per_bin", "measuring.memory_mb"]
ABSURD = [str(10**12), str(2**63), "9" * 400, "1" + "0" * 5000, "-1", "nan", "inf", "1.5", ""]
ABSURD += [
    "²",
    "[1, 1]",
    "&a [*a]",
    "!!int x",
    "2001-99-99",
    "x" * 300_000,
    "[" * 50_000,
    '"\\ud800"',
]


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_taken_that_no_machine_has(name: str) -> None:
    for value in ABSURD:
        with pytest.raises(UserError) as raised:
            load_preset("shapes-tiny", overrides=[f"{name}={value}"])
        assert len(str(raised.value)) < 600
        assert str(raised.value).isprintable()


def test_further_mistakes_are_counted() -> None:
    wrong = ["model.fc_width=0", "training.batch_size=x"]
    with pytest.raises(UserError, match=r"model.fc_width .*1 to 16,384 \(and one more\)$"):
        load_preset("coco-r50", overrides=wrong)
    with pytest.raises(UserError, match=r"model.fc_width .* \(and 2 more mistakes\)$"):
        load_preset("coco-r50", overrides=[*wrong, "training.gamma=nan"])
    # A value is not lost to a setting inside it.
    with pytest.raises(UserError, match=r"'model\.conv_blocks': 'model' is 'tiny', which"):
        load_preset("shapes-tiny", overrides=["model=tiny", "model.conv_blocks=1"])


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("training: {max_iterations: 10}\n")
    config = load_preset(path, "conv")
    assert (config.preset, config.training.max_iterations) == ("mine", 10)
    assert config.model.conventions.roi_level_from == "proposal"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {max_iters: 10}", "unknown setting 'training.max_iters'"),
        ("training: [", "is not YAML"),
        ("- 1", "holds no settings"),
        ("", "holds no settings"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        load_preset(path, "conv")
    assert "mine.yaml" in str(raised.value)


def test_data_of_a_role() -> None:
    config = load_preset("bccd-small", "fc")
    with pytest.raises(UserError, match=r"no train data.*--data"):
        split_paths(config.data, "train")
    given = config.with_data(train_annotations="a.json", train_images="images")
    assert split_paths(given.data, "train") == (
        Path("a.json").absolute(),
        Path("images").absolute(),
    )
    with pytest.raises(UserError, match="go together"):
        split_paths(config.with_data(train_images="images").data, "train")


@pytest.mark.parametrize(("paper", "ours"), HEAD_ALIASES.items())
def test_the_papers_names_of_heads(paper: str, ours: str) -> None:
    by_option, by_preset = load_preset("shapes-tiny", paper), load_preset(f"shapes-tiny-{paper}")
    assert by_option == by_preset == load_preset("shapes-tiny", ours)
    assert by_option.head == ours


def test_presets_of_heads_differ_in_one_place() -> None:
    """Which head does which task must be all that is compared."""
    settings = [load_preset(f"coco-r50-{head}").model_dump() for head in HEADS]
    assert [values.pop("head") for values in settings] == list(HEADS)
    assert all(values == settings[0] for values in settings)


def test_a_preset_of_one_head_with_another_is_refused() -> None:
    with pytest.raises(UserError, match="is of head double-head, not of head conv"):
        load_preset("coco-r50-double-head", "conv")
    assert load_preset("coco-r50-double-head", "double").head == "double"
    with pytest.raises(UserError, match=r"bad value for head .*: ''"):
        load_preset("coco-r50", "")
    with pytest.raises(
        UserError, match=r"'coco-r50-triple'.* bccd-small, coco-r101, coco-r50, shap"
    ):
        load_preset("coco-r50-triple")
