"""Columns of a page: what is read from them is what was put in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink_heads.errors import UserError
from rethink_heads.report.page_file import MODULES, pack, write_page
from tests.report.page_reader import equal, read_page, unpack

HEADER = {"title": "A report"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20),
    st.lists(st.floats(allow_infinity=False), max_size=20),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=20),
    st.lists(st.booleans(), max_size=20),
)
def test_columns_of_every_type_come_back(
    integers: list[int], floats: list[float], texts: list[str], flags: list[bool]
) -> None:
    tables = {
        "integers": pd.DataFrame({"a": np.array(integers, np.int64)}),
        "floats": pd.DataFrame({"a": np.array(floats, np.float64)}),
        "texts": pd.DataFrame({"a": np.array(texts, object)}),
        "flags": pd.DataFrame({"a": np.array(flags, bool), "b": np.arange(len(flags))}),
    }
    _, found = unpack(pack(HEADER, tables, {}))
    for name, frame in tables.items():
        for column in frame:
            assert equal(found[name][column], frame[column])


def test_quantised_columns_are_within_half_a_step() -> None:
    values = np.append(np.random.default_rng(0).uniform(-1, 1, 1000), [math.nan, -1, 1])
    ends = {"table": {"a": (-1.0, 1.0)}}
    _, found = unpack(pack(HEADER, {"table": pd.DataFrame({"a": values})}, ends))
    back = found["table"]["a"].to_numpy()
    assert np.array_equal(np.isnan(back), np.isnan(values))
    assert np.nanmax(np.abs(back - values)) <= 0.5 * 2 / (2**16 - 2) + 1e-12
    assert back[-2:].tolist() == [-1.0, 1.0]


def test_what_is_no_text_and_no_number_becomes_both() -> None:
    odd = pd.DataFrame({"a": ["x", None, math.nan, "\ud800", 3]})
    header, found = unpack(pack({"title": math.inf, "list": [np.float64(2)]}, {"odd": odd}, {}))
    assert (header["title"], header["list"]) == (None, [2.0])
    assert found["odd"]["a"].tolist() == ["x", "", "", "?", "3"]


def test_a_page_has_its_policy_and_no_markup_of_the_data(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>@data@"
    frame = pd.DataFrame({evil: [evil]})
    write_page(tmp_path / "page.html", {"title": evil}, {evil: frame})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("</script>") == 3
    policy = text.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.endswith("img-src blob:")
    header, tables = read_page(tmp_path / "page.html")
    assert header["title"] == evil
    assert tables[evil][evil].tolist() == [evil]


def test_images_are_allowed_only_where_they_are_linked(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", {**HEADER, "images": "../val/"}, {})
    assert "img-src blob: file:" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_page(tmp_path / "page.html", HEADER, {})


def test_every_script_is_in_the_page_after_those_that_it_imports() -> None:
    folder = Path(write_page.__code__.co_filename).parent / "page"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.js")}
    assert there == set(MODULES)
    for number, name in enumerate(MODULES):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("import "):
                imported = (folder / name).parent / line.split('"')[1]
                before = imported.resolve().relative_to(folder.resolve()).as_posix()
                assert MODULES.index(before) < number, f"{name} imports {before}"
