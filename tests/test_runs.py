"""Run folders: made once, opened again, never mistaken for another."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rethink_heads import __version__
from rethink_heads.config import Config, load_preset
from rethink_heads.data.shapes import shapes_folder
from rethink_heads.errors import UserError
from rethink_heads.files import CACHE_VARIABLE
from rethink_heads.runs import NEWER_SETTINGS, Run, measurements_name
from tests.command_line import fails, untrained_run
from tests.tiny_coco import CLASSES, SMALL_SETTINGS, write_coco


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    """A folder with splits train and val."""
    for images, split in enumerate(("train", "val"), 1):
        write_coco(tmp_path / "data", split, images)
    return tmp_path / "data"


@pytest.fixture
def config(coco_folder: Path) -> Config:
    return load_preset("shapes-tiny", "fc", [f"data.source={coco_folder}"])


def test_create_and_open(tmp_path: Path, config: Config) -> None:
    run = Run.create(tmp_path / "runs" / "a", config)
    assert Run.open(tmp_path / "runs" / "a") == run
    assert run.name == "a"
    assert Run.create(run.path, config) == run


def test_of_a_runs_settings_only_those_of_measuring_may_change(
    tmp_path: Path, config: Config
) -> None:
    run = Run.create(tmp_path / "a", config)
    other = config.with_overrides(["training.max_iterations=5", "seed=1"])
    with pytest.raises(UserError, match=r"other settings \(seed, training.max_iterations\)"):
        Run.create(run.path, other)
    assert Run.open(run.path).config == config
    other = config.with_overrides(["measuring.images=5"])
    Run.create(run.path, other)
    assert Run.open(run.path).config == other


def test_what_is_not_a_run_is_refused(tmp_path: Path, config: Config) -> None:
    with pytest.raises(UserError, match="no such run"):
        Run.open(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="is not a run"):
        Run.open(tmp_path / "b")
    Run.create(tmp_path / "b", config)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("")
    (tmp_path / "d").write_text("")
    for name in ("c", "d"):
        with pytest.raises(UserError, match="is not a run"):
            Run.create(tmp_path / name, config)


def test_measurements_have_the_name_of_what_they_are_of(
    tmp_path: Path, config: Config, coco_folder: Path
) -> None:
    spelled_out = config.with_data(
        test_annotations=coco_folder / "annotations" / "instances_val.json",
        test_images=coco_folder / "val",
    )
    frugal = config.with_overrides(["measuring.memory_mb=64"])
    for same in (config, spelled_out, frugal):
        assert measurements_name(config, same, config.seed) == "default"
    fewer = config.with_overrides(["measuring.images=5"])
    choices = [
        (config, 1),
        (config.with_data(test_split="train"), 0),
        (fewer, 0),
        (config.with_overrides(["measuring.images=6"]), 0),
    ]
    names = [measurements_name(config, chosen, seed) for chosen, seed in choices]
    assert len({*names, "default"}) == 5
    assert [name.rpartition("-")[0] for name in names] == ["val", "train", "val", "val"]
    both = fewer.with_overrides(["measuring.memory_mb=64"])
    assert measurements_name(config, both, 0) == names[2]
    # A run that has no data yet has no default ones.
    unfinished = load_preset("bccd-small", "fc")
    chosen = unfinished.with_data(source=str(coco_folder), test_split="val")
    assert measurements_name(unfinished, chosen, 0).startswith("val-")
    # Results of other measurements are kept apart.
    run = Run.create(tmp_path / "a", config)
    assert (run.tables(), run.tables("x")) == (run.tables_dir, run.tables_dir / "x")
    assert (run.figures(), run.measurements("x").parent) == (run.figures_dir, run.measurements_dir)


def test_settings_that_are_not_the_detectors_are_refused(tmp_path: Path) -> None:
    config = load_preset("shapes-tiny", "double", [*SMALL_SETTINGS, "data.source=somewhere"])
    run = untrained_run(tmp_path / "a", config)
    assert run.load().class_names == CLASSES
    elsewhere = config.with_overrides(["data.source=elsewhere", "training.workers=7"])
    Run(run.path, elsewhere).check_settings()
    other = config.with_overrides(["model.fc_width=1000", "seed=5"]).model_copy(
        update={"head": "fc"}
    )
    (run.path / "config.yaml").write_text(other.to_yaml())
    sentence = (
        r"config\.yaml contradicts .*detector\.pt: seed is 5 there and 0 in the detector;"
        r" head is fc there and double in the detector; model\.fc_width is 1000 there and 8 in"
    )
    with pytest.raises(UserError, match=sentence):
        Run.open(run.path).load()
    says = "contradicts"
    assert re.search(sentence, fails("correlate", "--run", run.path, "--head", "conv", says=says))


def test_settings_that_older_runs_lack_count_where_they_say_something(tmp_path: Path) -> None:
    """Else what was measured of such a run would have to be measured again."""
    config = load_preset("shapes-tiny", "double", [*SMALL_SETTINGS, "data.source=somewhere"])
    usual = untrained_run(tmp_path / "usual", config)
    model = json.loads(usual.provenance()["model"])
    assert not set(NEWER_SETTINGS) & set(model)
    assert "sampling_ratio" in model
    other = untrained_run(tmp_path / "other", config.with_overrides(["model.canonical_size=80"]))
    assert json.loads(other.provenance()["model"]) == {**model, "canonical_size": 80}


def test_the_log_gets_a_line_at_a_time(
    tmp_path: Path, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.create(tmp_path / "a", config)
    run.log("training\nbegins")
    run.log("training ends")
    lines = run.log_path.read_text().splitlines()
    expected = ("training begins", "training ends")
    for line, text in zip(lines, expected, strict=True):
        assert re.fullmatch(rf"[\d-]+T[\d:]+Z rethink-heads {__version__} {text}", line)
    run.log_path.unlink()
    run.log_path.mkdir()
    run.log("this has no place")
    assert "cannot write" in caplog.text


def test_many_processes_make_one_run_at_once(tmp_path: Path) -> None:
    """As torchrun's do: none takes another's half-made folder for something else."""
    from concurrent.futures import ThreadPoolExecutor

    config = load_preset("shapes-tiny", "fc")
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            paths = [tmp_path / str(number)] * 8
            assert all(
                run.config == config for run in pool.map(lambda p: Run.create(p, config), paths)
            )


def test_no_images_are_generated_only_to_compare_paths(
    coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    own = load_preset("shapes-tiny", "fc")
    chosen = own.with_data(source=str(coco_folder))
    assert measurements_name(own, chosen, own.seed).startswith("val-")
    assert not (tmp_path / "cache").exists()
    # Where the set is there, its folder by name is the same data.
    root = shapes_folder()
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    (root / "annotations" / "instances_val.json").write_text("{}")
    assert measurements_name(own, own.with_data(source=str(root)), own.seed) == "default"
