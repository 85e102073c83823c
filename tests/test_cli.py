"""The command line without training: help, and one clear sentence for each mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rethink_heads import __version__
from rethink_heads.cli import app
from rethink_heads.commands.figures import is_drawn
from rethink_heads.config import Config, load_preset
from rethink_heads.errors import UserError
from rethink_heads.files import read_csv
from rethink_heads.machine import other_processes
from rethink_heads.runs import Run
from rethink_heads.study import check_comparable
from tests.command_line import (
    all_sizes,
    call,
    call_json,
    fails,
    refuse,
    rows,
    small_run,
    untrained_run,
)
from tests.tiny_coco import write_annotations, write_coco

COMMANDS = ("demo", "train", "evaluate", "correlate", "regress", "sensitivity", "figures")
READS_DATA = ("evaluate", "correlate", "regress", "sensitivity")
# regress and sensitivity resolve their options as correlate does.
RESOLVES = ("evaluate", "correlate")

runner = CliRunner()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Run:
    """A run with an untrained fc-head, as if trained."""
    return small_run(tmp_path / "runs" / "fc", "fc", data)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    result = runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"rethink-heads {command}" in result.stdout
    assert "Example" in result.stdout
    options = ["--run", "--json", "--seed", "--device"]
    options += ["--data", "--annotations", "--images"] if command in READS_DATA else []
    for option in options:
        assert option in result.stdout


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], ["torch", "lightning", "pandas", "matplotlib", "pydantic"]),
        (["correlate", "--help"], ["torch", "lightning", "pandas", "matplotlib"]),
    ],
)
def test_help_is_quick_because_it_loads_nothing_heavy(words: list[str], heavy: list[str]) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from rethink_heads.cli import app;"
        f"assert CliRunner().invoke(app, {words}).exit_code == 0;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_the_packages() -> None:
    assert runner.invoke(app, ["--version"]).stdout.strip() == f"rethink-heads {__version__}"
    project = tomllib.loads(
        (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert project["project"]["scripts"]["rethink-heads"] == "rethink_heads.cli:main"


def test_the_newest_release_is_the_version() -> None:
    """The citation and the changelog name it too."""
    root = Path(__file__).resolve().parents[1]
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == __version__  # type: ignore[index]
    released = re.search(r"^date-released: (.+)$", citation, re.MULTILINE)[1]  # type: ignore[index]
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (.+)$", changes, re.MULTILINE)[1] == f"{__version__} - {released}"  # type: ignore[index]


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rethink_heads.commands.demo.demo_run", interrupt)
    result = runner.invoke(app, ["demo"])
    assert result.exit_code == 130
    assert result.stderr == "interrupted; run the same command again to go on\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["correlate", "--max-images", "9" * 400], r"--max-images 9+ \.\.\. 9+ is out of bounds"),
        (["demo", "--seed", "-1"], "--seed -1 is out of bounds: give 0 to 4,294,967,295$"),
        (["figures", "--seed", str(2**32)], f"--seed {2**32} is out of bounds"),
        (["regress", "--objects-per-image", "0"], "--objects-per-image 0 is out of bounds: give 1"),
        (["sensitivity", "--proposals-per-object", "0"], "give 1 to 923,521"),
        (["plan", "coco-r50", "--grid-steps", "9999"], "--grid-steps 9999 .* give 3 to 31"),
        (["regress", "--memory-mb", "-5"], "--memory-mb -5 is out of bounds"),
        (["evaluate", "--error-iou", "nan"], "--error-iou nan is out of bounds: give 0.1 to 1"),
        (["objects", "--worst", "0"], "--worst 0 is out of bounds: give 1 to 1,000,000"),
        (["plan", "coco-r50", "--seconds", "inf"], "--seconds inf is out of bounds"),
        (["plan", "coco-r50", "--devices", "0"], "--devices 0 is out of bounds: give 1 to 100,000"),
        (["describe", "coco-r50", "--classes", "0"], "--classes 0 .* give 1 to 100,000"),
        (["describe", "coco-r50", "--frame", "99999x9"], "side of 99999 .* give 1 to 20,000"),
        (["describe", "coco-r50", "--frame", f"{'9' * 400}x9"], "cannot read --frame 9"),
        (["sweep", "depth", "--seed", "1", "--seed", "-2"], "--seed -2 is out of bounds"),
        (["describe", "coco-r50", "training=\0"], r"the argument 'training=\\x00' has U\+0000"),
        (["evaluate", "--run", "caf\udce9"], r"the argument 'caf\\udce9' has U\+DCE9"),
        (["evaluate", "--run", "r" * 300], "File name too long for r+.*; give a shorter one"),
        (["train", "--run", "r" * 300], "File name too long"),
        (["describe", f"{'p' * 5000}.yaml"], "error: cannot read file p+.*File name too long"),
        (["evaluate", "--model", f"{'m' * 90}=python:a:b"], "cannot be the name of a folder"),
        (["evaluate", "--model", f"{'🐕' * 70}=python:a:b"], "cannot be the name of a folder"),
        (["evaluate", "--model", "a\n=python:a:b"], "cannot be the name of a folder"),
    ],
)
def test_arguments_beyond_reason(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rethink_heads.run_options.train_run", refuse)
    message = fails(*arguments, says="error: ")
    assert re.search(says, message)
    assert len(message) <= 1000


COUNTS = ("--max-images", "--objects-per-image", "--proposals-per-object", "--grid-steps")
NO_COUNT = ["-1", "abc", "", "1.5", "nan", "inf", "1e3", "0x10", "½", "\udcff", "9" * 5000]


@pytest.mark.parametrize("option", [*COUNTS, "--memory-mb", "--seed"])
def test_what_is_no_count_is_refused(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink_heads.run_options.train_run", refuse)
    for value in NO_COUNT:
        result = runner.invoke(app, ["regress", option, value])
        assert result.exit_code == 2, value
        assert (result.stdout, "Traceback" in result.stderr) == ("", False)
        assert 0 < len(result.stderr) < 3000


@pytest.mark.parametrize("arguments", [["x" * 5000], ["describe", f"--{'x' * 5000}"]])
def test_usage_errors_are_cut(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments, env={"COLUMNS": "100"})
    assert result.exit_code == 2
    assert "xxx ..." in result.stderr
    assert len(result.stderr.splitlines()) < 15


@pytest.mark.parametrize("command", [*RESOLVES, "figures"])
def test_no_such_run(command: str, tmp_path: Path) -> None:
    fails(command, "--run", tmp_path / "none", says="no such run")
    (tmp_path / "empty").mkdir()
    fails(command, "--run", tmp_path / "empty", says="is not a run")


@pytest.mark.parametrize("command", RESOLVES)
def test_options_that_a_run_cannot_follow(command: str, run: Run, data: Path) -> None:
    json_file, with_run = data / "annotations" / "instances_val.json", (command, "--run", run.path)
    both = ("--annotations", json_file, "--images", data / "val")
    fails(*with_run, "--head", "conv", says="no head 'conv'")
    assert "fc" in fails(*with_run, "--head", "zork", says="head 'zork'")
    fails(*with_run, "--data", data, *both, says="not both")
    fails(*with_run, "--split", "test", says='no split "test"')
    if command == "correlate":
        fails(*with_run, "training.flip=no", says="begin with measuring.")
    if not torch.cuda.is_available():
        fails(*with_run, "--device", "cuda", says="'cuda'")


@pytest.mark.parametrize("command", RESOLVES)
def test_a_run_without_a_usable_detector(command: str, run: Run) -> None:
    whole = run.detector_path.read_bytes()
    run.detector_path.write_bytes(whole[: len(whole) // 2])
    fails(command, "--run", run.path, says="detector.pt is damaged")
    run.detector_path.unlink()
    fails(command, "--run", run.path, says="is not fully trained; go on with: rethink-heads train")


@pytest.mark.parametrize("command", RESOLVES)
def test_data_that_cannot_be_used(command: str, run: Run, data: Path) -> None:
    path, with_run = data / "val" / "1.png", (command, "--run", run.path)
    path.write_bytes(path.read_bytes()[:2000])
    fails(*with_run, says="1.png")
    path.unlink()
    fails(*with_run, says="1.png")
    content = write_coco(data)
    for category, name in zip(content["categories"], ("blue", "yellow"), strict=True):
        category["name"] = name
    write_annotations(data, content)
    message = fails(*with_run, says="classes")
    assert "blue" in message
    assert "green" in message
    (data / "annotations" / "instances_val.json").write_text("not JSON")
    assert "instances_val.json" in fails(*with_run, says="JSON")
    assert not list(run.path.rglob("*.parquet"))


def test_unusable_boxes_are_counted_and_reported(run: Run, data: Path) -> None:
    content = write_coco(data)
    for number, box in enumerate([[5, 5, 0, 10], [100, 100, 9, 9], [-5, -5, 20, 20]], 2):
        annotation = {"id": number, "image_id": 1, "category_id": 1, "bbox": box}
        content["annotations"].append(annotation)
    write_annotations(data, content)
    result = runner.invoke(app, ["correlate", "--run", str(run.path), "--json"])
    assert "1 images, 2 objects (1 clipped to the image)" in result.stderr
    assert "1 of zero size, 1 outside the image" in result.stderr
    assert all_sizes(json.loads(result.stdout))["objects"] == 2


@pytest.mark.parametrize("ends", [("0.5", "0.5"), ("-1", "1"), ("0.5", "0.77")])
def test_ranges_of_iou(run: Run, ends: tuple[str, str]) -> None:
    fails("correlate", "--run", run.path, "--iou-range", *ends, says="IoU range")


def second(run: Run, name: str, *overrides: str) -> Run:
    """A run like another, as if trained with other settings."""
    return untrained_run(run.path.parent / name, run.trained_config.with_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("override", "says", "remedy"),
    [
        ("seed=1", "measuring seed 0 and 1", "--seed N"),
        ("measuring.grid_steps=5", "measuring.grid_steps 3 and 5", "measuring.grid_steps=VALUE"),
        ("data.test_split=other", "annotations ", "--data FOLDER, or --annotations FILE"),
    ],
)
def test_runs_that_would_not_be_measured_alike(
    run: Run, data: Path, override: str, says: str, remedy: str
) -> None:
    write_coco(data, "other", images=2)
    both = ("--run", run.path, "--run", second(run, "b", override).path)
    message = fails(
        "correlate",
        *both,
        says=f"fc and b cannot be compared object by object, they differ in: {says}",
    )
    assert f"; give {remedy}" in message
    assert not list(run.path.rglob("*.parquet"))


@pytest.mark.usefixtures("tables_only")
def test_figures_of_runs_measured_unlike_and_then_alike(run: Run, tmp_path: Path) -> None:
    other = second(run, "b", "seed=1")
    for each in (run, other):
        call("correlate", "--run", each.path)
    both = ("--run", run.path, "--run", other.path)
    to = ("--output", tmp_path / "both")
    says = "measuring seed 0 and 1; measure them alike first (rethink-heads correlate"
    fails("figures", *both, *to, says=says)
    call("correlate", *both, "--seed", "0")
    (name,) = {path.name for path in other.measurements_dir.iterdir()} - {"default"}
    names = ("--measurements", "default", "--measurements", name)
    call("figures", *both, *to, *names)
    table = read_csv(tmp_path / "both" / "tables" / "pcc.csv")
    assert set(table["detector"]) == {run.path.name, other.path.name}
    fails("figures", *both, *to, *names, "--measurements", "x", says="3 times --measurements")


def test_other_numbers_of_images_are_not_compared(run: Run, data: Path) -> None:
    write_coco(data, images=3)
    few, all_of_them = ({"images": "2", "seed": "0"}, {"images": "3", "seed": "0"})
    check_comparable([run, run], [few, few])
    with pytest.raises(UserError, match=r"number of images 2 and 3; give --max-images N"):
        check_comparable([run, run], [few, all_of_them])


@pytest.mark.usefixtures("tables_only")
def test_what_was_drawn_is_known_by_all_files_and_the_seed(run: Run) -> None:
    call("correlate", "--run", run.path)
    assert not is_drawn(run, "default", 0)
    call("figures", "--run", run.path, "--device", "cpu")
    assert is_drawn(run, "default", 0)
    assert not is_drawn(run, "default", 1)
    meta = run.measurements() / "meta.json"
    meta.write_bytes(meta.read_bytes() + b" ")
    assert not is_drawn(run, "default", 0)


def test_the_log_says_what_was_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["correlate", "--run", str(run.path)]
    monkeypatch.setattr("sys.argv", ["/somewhere/rethink-heads", *words])
    call(*words)
    lines = run.log_path.read_text().splitlines()
    command = f"rethink-heads correlate --run {run.path}"
    assert [line.partition(f" rethink-heads {__version__} ")[2] for line in lines] == [
        f"measuring default begins: {command}",
        f"measuring default ends: {command}",
    ]


def test_a_busy_machine_is_told_and_noted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter(
        ["other processes take 1.5 of its 2 cores", "other processes take 1.1 of its 2 cores"]
    )
    monkeypatch.setattr(other_processes, "busy_line", lambda: next(loads))
    result = runner.invoke(app, ["correlate", "--run", str(run.path)])
    assert result.exit_code == 0, result.stderr
    told = "the machine is busy: other processes take 1.5 of its 2 cores"
    assert f"{told}, so that this takes longer\n" in result.stderr
    begins, busy, ends = run.log_path.read_text().splitlines()
    assert " begins: rethink-heads" in begins
    assert busy.endswith(told)
    assert " ends (meanwhile other processes take 1.1 of its 2 cores): rethink-heads" in ends


def test_evaluate_checks_all_heads_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run.trained_config.model_copy(update={"head": "conv"})
    other = untrained_run(run.path.parent / "conv", config)
    monkeypatch.setattr("rethink_heads.measure.detections.keep_detections", refuse)
    both = ("--run", run.path, "--run", other.path)
    fails("evaluate", *both, "--head", "fc", says="conv has no head 'fc'; it has conv")


def test_scores_by_iou_are_printed(run: Run) -> None:
    output = call("correlate", "--run", run.path, "--iou-range", "0.9", "1", "--full")
    _, _, table = output.partition("mean [95% interval] ± standard deviation")
    assert re.findall(r"\d\.\d\d - \d\.\d\d", table) == ["0.90 - 0.95", "0.95 - 1.00"]
    assert table.count("±") >= 1


def test_figures_of_nothing(run: Run) -> None:
    fails("figures", "--run", run.path, says="nothing was measured")


def test_a_full_disk_while_measuring(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    fails("correlate", "--run", run.path, says="No space left on device; free some space")
    assert not list(run.path.rglob("meta.json"))


def test_a_full_disk_while_training(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", "last.ckpt")

    monkeypatch.setattr("rethink_heads.training.train.train", full)
    to = data.parent / "new"
    fails("train", "--run", to, says="No space left on device for last.ckpt; free some space")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["describe", "--help"]])
def test_help_on_a_full_disk(words: list[str]) -> None:
    command = [sys.executable, "-m", "rethink_heads", *words]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("error: No space left on device; free some space")


def test_without_sampled_rows_there_are_no_ranks(run: Run) -> None:
    found = all_sizes(call_json("correlate", "--run", run.path, "measuring.rows_per_bin=0"))
    assert found["spearman"] is None
    assert found["pcc"] is not None


def test_train_refuses_what_it_cannot_do(tmp_path: Path, data: Path, run: Run) -> None:
    to = ("--run", tmp_path / "new")
    fails("train", "--preset", "shapes", *to, says="shapes-tiny")
    fails("train", "--head", "fcc", *to, says="'double-ext'")
    fails("train", *to, "training.max_iteration=5", says="'training.max_iterations'")
    fails("train", "--preset", "bccd-small", *to, says="no train data")
    fails("train", "--images", data, *to, says="go together")
    fails("train", "--head", "conv", "--run", run.path, says="other settings")


def test_train_without_options_goes_on_with_the_runs_own(run: Run) -> None:
    before = Run.open(run.path).config
    assert rows(call_json("train", "--run", run.path), "run")[0]["head"] == "fc"
    assert Run.open(run.path).config == before


def test_no_run_yet_trains_the_demos_detector_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the training itself, which takes minutes."""
    monkeypatch.chdir(tmp_path)
    trained: list[Path] = []

    def train_run(path: Path, config: Config, device: str) -> Run:
        trained.append(path)
        assert (config.preset, config.head) == ("shapes-tiny", "double-ext")
        (tmp_path / "runs" / "fc").rename(path)
        return Run.open(path)

    monkeypatch.setattr("rethink_heads.run_options.train_run", train_run)
    fails("correlate", "--head", "zork", says="unknown head 'zork'")
    assert trained == []
    for _ in range(2):
        assert all_sizes(call_json("correlate", "--head", "fc"))["head"] == "fc"
    assert trained == [Path("runs/demo")]


@pytest.mark.parametrize("command", RESOLVES)
def test_mistakes_are_found_before_the_demo_is_trained(
    command: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rethink_heads.run_options.train_run", refuse)
    none = tmp_path / "none.json"
    fails(command, "--images", data, says="--images go together")
    fails(command, "--annotations", none, "--images", data, says="no such annotation file")
    fails(command, "--data", tmp_path / "none", says="no such data folder")
    fails(command, "--max-images", "0", says="--max-images 0 is out of bounds")
    fails(command, "--device", "tpu", says="'tpu'")
    fails(command, "--head", "zork", says="unknown head 'zork'")
    if command != "evaluate":
        fails(command, "--grid-steps", "4", says="must be odd")
        fails(command, "measuring.image=3", says="'measuring.images'")
    assert not (tmp_path / "runs").exists()


def test_classes_are_compared_before_the_demo_is_trained(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(data, "train")
    content = write_coco(tmp_path / "other")
    content["categories"][1]["name"] = "blue"
    write_annotations(tmp_path / "other", content)
    # The only object there is a blue one.
    preset = load_preset("shapes-tiny", "fc", [f"data.source={data}"])
    (tmp_path / "small.yaml").write_text(preset.to_yaml())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rethink_heads.run_options.DEMO_PRESET", "small.yaml")
    monkeypatch.setattr("rethink_heads.run_options.train_run", refuse)
    other = tmp_path / "other"
    fails("correlate", "--data", other, says="has no objects of the classes red")
    content["categories"][0]["name"] = "yellow"
    write_annotations(other, content)
    assert "blue" in fails("correlate", "--data", other, says="classes")


def test_the_demo_refuses_a_run_of_another_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink_heads.run_options.train_run", refuse)
    says = "is a run of seed 0; choose another folder for seed 1 with --run"
    fails("demo", "--run", run.path, "--seed", "1", says=says)
    run.detector_path.unlink()
    fails("demo", "--run", run.path, "--seed", "1", says=says)
