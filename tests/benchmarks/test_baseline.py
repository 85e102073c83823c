"""The baseline gives what the detector gives, and what is counted and timed about it is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import bounds, comparison, precision, report, scaling, speed
from benchmarks.peak import growth
from benchmarks.random_weights import SCORE_SPREAD, random_detector, settings
from benchmarks.sides import Options, Sides, Variant, make_sides, ours
from benchmarks.subjects import Moments, pcc, pooled_pcc, sampled, subjects
from rethink_heads.config import Config
from rethink_heads.fastpath.conv import FastConv
from rethink_heads.heads import ConvHead, FCHead
from rethink_heads.measure.responses import Responder
from tests.benchmarks.blocks import prepare_block
from tests.tiny_coco import write_coco

SMALL = {"fpn_channels": 8, "fc_width": 16, "conv_width": 16, "conv_bottleneck": 8}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    data = tmp_path_factory.mktemp("data")
    write_coco(data, images=3)
    return Options("shapes-tiny", str(data), "val", 2, 1, 1, 64, 0, "cpu", 50)


def small(head: str) -> Config:
    config = settings("shapes-tiny", head)
    sizes = {**SMALL, "min_size": 96, "max_size": 128}
    return config.model_copy(update={"model": config.model.model_copy(update=sizes)})


@pytest.fixture(scope="module", params=["fc", "conv", "conv-nonlocal"])
def sides(request: pytest.FixtureRequest, options: Options) -> Sides:
    return make_sides(small(request.param), options)[0]


def test_it_answers_as_the_detector_does(sides: Sides, options: Options) -> None:
    found, _ = subjects(options.data, options.split, 1, options.seed, sizes=["small"])
    (subject,) = found
    boxes = subject.proposals[::50]
    baseline, detector = sides
    answer = baseline.respond(baseline.extract(subject.image), boxes, subject.box, subject.label)
    with torch.inference_mode():
        features = detector.extract(subject.image)
        (output,) = detector.predict(features, detector.pool(features, boxes), boxes).values()
    scores, regressed = output.scores[:, subject.label], output.boxes[:, subject.label]
    torch.testing.assert_close(answer.scores, scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(answer.boxes, regressed, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(answer.ious.double(), subject.ious[::50], rtol=1e-4, atol=1e-5)
    assert answer.regressed_ious.shape == (len(boxes),)


def test_random_weights_tell_an_objects_proposals_apart(options: Options) -> None:
    found, names = subjects(options.data, options.split, 2, 0, sizes=["small"])
    detector = random_detector(small("conv"), names, found, seed=1)
    responder = Responder(detector, 64)
    with torch.inference_mode():
        features = detector.extract(found[0].image)
    every = torch.arange(0, len(found[0].proposals), 20)
    scores, _, _ = ours(responder, features, found[0], every)
    assert 0.02 < float(scores.logit().std()) / SCORE_SPREAD < 5


def test_subjects_are_of_the_sizes_in_turn_and_the_same_again(shared_data: Path) -> None:
    folder = str(shared_data / "coco-sample")
    found, names = subjects(folder, "val", 6, seed=3)
    again, _ = subjects(folder, "val", 6, seed=3)
    assert len(names) == 80
    assert [each.size for each in found] == ["small", "medium", "large"] * 2
    assert [each.name for each in found] == [each.name for each in again]
    assert len({each.name.partition("/")[0] for each in found}) == 6
    chosen = sampled(found[0], 500, seed=0)
    assert len(chosen) == 500
    assert torch.equal(chosen, sampled(found[0], 500, seed=0))


def test_operations_are_counted_by_hand() -> None:
    head = FCHead(num_classes=3, channels=8, width=16)
    # Logits of all classes and background, the deltas of one class.
    products = 8 * 49 * 16 + 16 * 16 + 16 * 4 + 16 * 4
    assert bounds.operations(head, 8) == 2 * products
    of = bounds.work(head, 8, proposals=100, intervals=10, rows=20)
    assert of.head == 2 * products * 100
    assert of.pooled_bytes == 100 * 8 * 49 * 4
    assert of.factored == 2 * 4 * (100 * 8 * 49 + 10 * 7 * 20 * 8)
    assert bounds.pooling_bound(of, 1e9, 1e12) == of.factored / 1e9
    assert bounds.pooling_bound(of, 1e12, 1.0) == of.pooled_bytes
    assert bounds.head_bound(of, 1e9) == (of.factored + of.head) / 1e9
    assert bounds.executed(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 2 * 2 * 3 * 5


@pytest.mark.parametrize("non_local", [False, True])
def test_what_a_conv_head_does_in_place_is_counted(non_local: bool) -> None:
    shape = {"channels": 16, "width": 32, "bottleneck": 16}
    head = ConvHead(num_classes=3, **shape, non_local=non_local).eval()
    layers, rois = FastConv(head, 7, torch.float32), torch.rand(10, 7, 7, 16)
    with torch.inference_mode():
        done = bounds.executed(lambda: layers.from_features(rois))
    assert done >= 0.98 * 10 * bounds.operations(head, 16)


def test_peak_memory_is_that_of_the_work() -> None:
    assert growth(prepare_block, 50) == pytest.approx(100, abs=15)


def test_speeds_report_holds_all_sides(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "settings", lambda _, head: small(head))
    rates = {
        **{f"product {name} (GFLOP/s)": 10.0 for name in ("float32", "bfloat16")},
        "copy (GB/s, read and written)": 1.0,
    }
    variants = [Variant("float32", None), Variant("float32", 300)]
    (numbers,) = comparison.compare_head("fc", variants, options._replace(objects=1), rates)
    (row,) = numbers["objects"]
    for variant, expected in zip(variants, (row["proposals"], 300), strict=True):
        agreement = row["agreement"][variant.name]
        assert agreement["proposals"] == expected
        assert agreement["score"] < 1e-4
        assert agreement["box"] < 0.01
        assert abs(agreement["pcc"]) < 1e-4
        assert row["bounds"][variant.name] > 0
    assert row["pooling"]["difference"] < 1e-5
    assert set(row["pooling"]) >= {*report.POOLINGS, "bound"}
    assert set(row["backbone"]) == {"baseline", "ours"}
    text = report.head_section(numbers)
    assert "float32, 300 proposals" in text
    assert json.loads(json.dumps(numbers))["head"] == "fc"


def test_fitted_heads_follow_the_iou(options: Options) -> None:
    config = small("fc")
    sides, found = make_sides(config, options._replace(objects=1))
    fitted, _ = make_sides(config, options._replace(objects=1, fit=60))
    (subject,) = found
    chosen = sampled(subject, 300, 0)

    def correlation(of: Sides) -> float:
        responder: Any = Responder(of.detector, 64)
        scores, _, _ = ours(responder, responder.extract(subject.image), subject, chosen)
        return pcc(scores, subject.ious[chosen])

    assert correlation(fitted) > max(0.3, correlation(sides) + 0.1)
    # The baseline has the fitted weights too.
    pyramid = fitted.baseline.extract(subject.image)
    boxes = subject.proposals[chosen]
    answer = fitted.baseline.respond(pyramid, boxes, subject.box, subject.label)
    assert pcc(answer.scores, subject.ious[chosen]) == pytest.approx(correlation(fitted), abs=1e-4)


@pytest.mark.parametrize("head", ["fc", "conv"])
def test_errors_are_those_from_float64(
    head: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "settings", lambda _, head: small(head))
    rows = precision.head_rows(head, options._replace(objects=1, chunk=64), 200)
    assert [row["computed"] for row in rows] == [
        "torchvision, float32",
        "ours, float32",
        "ours, bfloat16",
    ]
    for row in rows[:2]:
        assert 0 < row["score"] < 1e-4
        assert 0 < row["box"] < 0.01
    assert rows[1]["score"] < rows[2]["score"] < 0.1
    text = precision.report(rows, precision.part_rows(options._replace(objects=1)))
    for part in ("backbone and FPN", "RoIAlign", "fc6 and fc7", "3x3 convolution"):
        assert part in text


def test_pooled_correlation_is_that_of_all_together() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randn(2, count, generator=generator) + count for count in (5, 9, 30)]
    a, b = torch.cat(pairs, dim=1)
    found = pooled_pcc(Moments.of(*pair) for pair in pairs)
    assert found == pytest.approx(pcc(a, b), abs=1e-9)


def test_the_figure_of_growth_has_a_panel_for_each_series() -> None:
    frame = pd.DataFrame(
        [
            {"head": head, "series": series, "x": x, "side": side, "seconds": float(x)}
            for head in ("fc", "conv-nonlocal")
            for series in scaling.TITLES
            for side in scaling.LABELS
            for x in (1, 10, 100)
        ]
    )
    figure = scaling.draw(frame)
    assert len(figure.axes) == 2 * 3
    for ax in figure.axes:
        assert len(ax.lines) == 3
        assert [list(line.get_xdata()) for line in ax.lines] == [[1, 10, 100]] * 3


@pytest.mark.parametrize("module", [speed, scaling])
def test_commands_explain_themselves(module: object) -> None:
    import typer

    app = typer.Typer()
    app.command()(module.command)  # type: ignore[attr-defined]
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "--repeats" in result.stdout
