"""The names that ``import rethink_heads`` supports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rethink_heads


def test_every_public_name_is_there() -> None:
    for name in rethink_heads.__all__:
        assert getattr(rethink_heads, name) is not None
        assert name in dir(rethink_heads)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rethink_heads.nothing  # noqa: B018


def test_measuring_does_not_take_the_name_of_its_subpackage() -> None:
    from rethink_heads.measure.runner import measure

    assert rethink_heads.measure_detector is measure
    assert rethink_heads.measure.__name__ == "rethink_heads.measure"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, rethink_heads; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
