"""The names that ``import rethink_heads`` supports."""

from __future__ import annotations

import pydoc
import subprocess
import sys

import pytest

import rethink_heads


def test_every_public_name_is_there_and_nothing_else() -> None:
    names = [name for name in dir(rethink_heads) if not name.startswith("_")]
    assert {"Measurements", "pearson", "write_figures"} <= set(names)
    for name in names:
        assert getattr(rethink_heads, name).__module__.startswith("rethink_heads.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rethink_heads.nothing  # noqa: B018


def test_help_has_a_line_a_name() -> None:
    text = pydoc.plain(pydoc.render_doc(rethink_heads))
    for name in dir(rethink_heads):
        assert name.startswith("_") or text.count(f"\n        {name} ") == 1
    assert len(text.splitlines()) < 200


def test_measuring_does_not_take_the_name_of_its_subpackage() -> None:
    from rethink_heads.measure.runner import measure

    assert rethink_heads.measure_detector is measure
    assert rethink_heads.measure.__name__ == "rethink_heads.measure"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, rethink_heads; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
