"""detectron2 is imported only when it is asked for, and says how to install it where it is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rethink_heads.detectors.detectron2.config import require_detectron2
from rethink_heads.detectors.detectron2.opening import open_detectron2
from rethink_heads.errors import UserError

LIGHT = """
import sys
import rethink_heads.detectors.detectron2.opening
import rethink_heads.detectors.detectron2.adapter
assert not [name for name in sys.modules if name.partition('.')[0] == 'detectron2']
"""


@pytest.fixture(autouse=True)
def its_modules_stay_what_they_were() -> Iterator[None]:
    """What a test imports in place of detectron2 must not be taken for it later, nor the real one be lost."""
    before = {name: module for name, module in sys.modules.items() if _is_its(name)}
    yield
    for name in [name for name in sys.modules if _is_its(name)]:
        del sys.modules[name]
    sys.modules.update(before)


def _is_its(name: str) -> bool:
    return name.partition(".")[0] == "detectron2"


@pytest.mark.parametrize("ask", [require_detectron2, lambda: open_detectron2("any.yaml")])
def test_where_it_is_missing_the_message_says_how_to_install_it(ask: Any, monkeypatch: Any) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(UserError) as caught:
        ask()
    message = str(caught.value)
    assert message.startswith(
        "detectron2 is not installed: pip install --no-build-isolation 'git+https://"
    )
    assert "PYTHONPATH" in message


def test_a_missing_package_of_its_own_is_named(monkeypatch: Any, tmp_path: Any) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").touch()
    (tmp_path / "detectron2" / "config.py").write_text("import a_package_of_nobody.part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="'a_package_of_nobody' that it imports is not"):
        require_detectron2()


def test_importing_our_modules_does_not_import_it() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True)
