"""The notebooks: run from top to bottom on a tiny run, and committed as they were run on the demo's."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

from rethink_heads.config import load_preset
from rethink_heads.options import StudyOptions
from rethink_heads.run_options import train_run
from rethink_heads.runs import Run
from rethink_heads.study import resolve
from tests.tiny_coco import SMALL_SETTINGS, write_coco

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = (
    "quickstart",
    "correlation",
    "regression",
    "spatial_sensitivity",
    "compare_heads",
    "your_own_detector",
    "where_precision_is_lost",
)
SETTINGS = [
    *SMALL_SETTINGS,
    "training.max_iterations=2",
    "training.batch_size=2",
    "training.warmup_iterations=1",
    "training.milestones=[2]",
    "training.validate_every=2",
    "training.workers=0",
    "measuring.images=none",
]
# What a cell with a figure calls.
DRAWS = re.compile(r"\b(plot_\w+|new_axes|subplots|draw|figures\.\w+)\(")
# The beginning of an absolute path on Linux, macOS or Windows.
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(home|root|tmp|work|opt|usr|var|mnt|srv|private|Users)/|\b[A-Z]:\\"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A detector trained for two steps and measured on four images, in place of the demo's."""
    folder = tmp_path_factory.mktemp("notebooks")
    for split in ("train", "val"):
        write_coco(folder / "data", split, images=4)
    settings = [*SETTINGS, f"data.source={folder / 'data'}"]
    made = train_run(
        folder / "runs" / "demo", load_preset("shapes-tiny", "double-ext", settings), "cpu"
    )
    for subject in resolve([made], StudyOptions(device="cpu")):
        subject.measure()
    return made


@pytest.fixture(scope="module")
def kernel(run: Run) -> Iterator[AsyncKernelManager]:
    """One kernel for all notebooks, so that PyTorch is imported once; its names are deleted between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETHINK_HEADS_RUN", str(run.path))
        patch.setenv("PYTHONPATH", str(FOLDER.parent))
        manager = AsyncKernelManager(kernel_name="python3")
        yield manager
        if manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=True)
    # What is left of its clients may log a warning when it goes: here rather than in another file's test.
    del manager
    gc.collect()


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name: str, kernel: AsyncKernelManager) -> None:
    notebook = read(name)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, km=kernel, timeout=120, resources=resources).execute()
    for cell in code_cells(notebook):
        # Warnings are for the eyes of whoever runs it first.
        assert [o for o in cell.outputs if o.get("name") == "stderr"] == [], cell.source
    assert all(map(is_shown, drawing_cells(notebook)))


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def drawing_cells(notebook: Any) -> list[Any]:
    return [cell for cell in code_cells(notebook) if DRAWS.search(cell.source)]


def is_shown(cell: Any) -> bool:
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def kinds(notebook: Any) -> set[str]:
    """The kinds of everything that the cells show."""
    return {
        kind
        for cell in code_cells(notebook)
        for output in cell.outputs
        for kind in output.get("data", {})
    }


def test_these_are_all_notebooks() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_committed_as_they_were_run(name: str) -> None:
    notebook = read(name)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert "text/html" in kinds(notebook)
    assert drawing_cells(notebook)
    assert all(map(is_shown, drawing_cells(notebook)))


@pytest.mark.parametrize("name", NAMES)
def test_every_question_is_answered(name: str) -> None:
    """Of each section's title, figure and text the last comes after what it speaks of."""
    notebook = read(name)
    first, *others = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert first.source.startswith("# ")
    assert "make demo" in first.source
    titles = [cell for cell in others if cell.source.startswith("## ")]
    answers = [cell for cell in others if cell.source.startswith("**What it says.**")]
    assert len(answers) >= 2
    assert len(titles) >= len(answers)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_name_no_path_of_a_machine(name: str) -> None:
    for cell in read(name).cells:
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts.append(str(output.get("text", "")))
            # Pictures are base64, in which any letters may follow each other.
            texts += [
                str(value)
                for kind, value in output.get("data", {}).items()
                if not kind.startswith("image/")
            ]
        for text in texts:
            assert not MACHINE_PATH.search(text), text


def test_paths_of_machines_are_known() -> None:
    for text in ("in /home/me/runs", "'/tmp/x'", r"C:\Users", "/Users/me"):
        assert MACHINE_PATH.search(text), text
    for text in ("../runs/demo", "https://example.org/home/x", "image/png", "and/or"):
        assert not MACHINE_PATH.search(text), text
