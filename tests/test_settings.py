"""Texts and YAML of users: byte order marks, limits, and one sentence for whatever cannot be read."""

from __future__ import annotations

import time
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.checkpoints.detectron2_settings import read_settings
from rethink_heads.detectors.classes import read_class_map, read_class_names
from rethink_heads.errors import UserError
from rethink_heads.settings import parse_yaml
from rethink_heads.sweeps.description import load_sweep

DOUBLINGS = "".join(f"k{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40))
MERGES = "".join(f"k{i}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(40))
BAD_YAML = {
    "recursive": ("a: 1\nb: &b\n  c: *b", r"line 3, .*\*b repeats what it is part of"),
    "doubling": (f"x: &a0 [1, 2]\n{DOUBLINGS}", "more than 50,000 values"),
    "doubling-merges": (f"x: &a0 {{y: 1}}\n{MERGES}", "more than 50,000 values"),
    "truth": ("a: !!bool x", "line 1, .*'x' cannot be read as bool"),
    "digits": (f"a: {'9' * 5000}", r"line 1, .*9 \.\.\. 9+ has more than 100 digits"),
    "deep": ("[" * 10_000, "nested more than 40 levels deep"),
    "deep-blocks": ("- " * 50, "nested more than 40 levels deep"),
    "no-number": ("a: !!int ''", "'' cannot be read as int"),
    "code": ("a: !!python/object/apply:eval [1]", "only plain values are read, not !!python"),
    "binary": ("a: !!binary aGVsbG8=", "only plain values are read, not !!binary"),
    "twice": ("a: 1\nb: 2\na: 3", "line 3, .*the key 'a' is there twice"),
    "surrogate": ('a: "\\ud800"', "line 1, .* no text file can hold"),
    "nul": ("a: 1\nb: \0", r"line 2, is not YAML: it has the character U\+0000"),
    "unended": ("a: [1,\n", "line 2, is not YAML"),
    "two-documents": ("a: 1\n---\nb: 2", "line 2, .*another document"),
}


@pytest.mark.parametrize("kind", BAD_YAML)
def test_yaml_that_is_refused_names_the_line(kind: str) -> None:
    text, message = BAD_YAML[kind]
    begun = time.perf_counter()
    with pytest.raises(UserError, match=message) as raised:
        parse_yaml(text, "mine.yaml")
    assert time.perf_counter() - begun < 5
    assert str(raised.value).startswith("mine.yaml")
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)


def test_what_plain_yaml_means() -> None:
    text = "a: &x [1, 2.5, yes, null]\nb: *x\nc: {<<: {d: 1}, e: 2001-99-99}\n2001-01-01: é"
    shared = [1, 2.5, True, None]
    dated = {"d": 1, "e": "2001-99-99"}
    assert parse_yaml(text, "") == {"a": shared, "b": shared, "c": dated, "2001-01-01": "é"}
    assert parse_yaml("", "") is None


plain = st.none() | st.booleans() | st.integers(-(10**80), 10**80) | st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
values = st.recursive(
    plain | texts, lambda v: st.lists(v) | st.dictionaries(texts, v), max_leaves=8
)


@given(values)
@hypothesis.settings(max_examples=50, deadline=None)
def test_what_pyyaml_writes_comes_back(value: object) -> None:
    # Dates are quoted by PyYAML, as it would read them as such.
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "") == value


@given(st.text("ab01:-?,[]{}&*!|>'\"%@`#~<=. \n\t\\xu\0é", max_size=60))
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    said = "mine.yaml"
    try:
        parse_yaml(text, "mine.yaml")
    except UserError as error:
        said = str(error)
    assert said.startswith("mine.yaml")


MARKS = {"utf-8": b"", "utf-8-sig": b"", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}


@pytest.mark.parametrize("encoding", MARKS)
def test_every_text_is_read_with_and_without_a_byte_order_mark(
    encoding: str, tmp_path: Path
) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(MARKS[encoding] + text.encode(encoding))
        return tmp_path / name

    assert read_class_names(write("names.txt", "chât\ndog\n")) == ("chât", "dog")
    assert read_class_map(write("map.yaml", "chât: cat\n")) == {"chât": "cat"}
    assert read_class_map(write("map.json", '{"chât": null}')) == {"chât": None}
    preset = write("mine.yaml", "training: {max_iterations: 7}\n")
    assert load_preset(preset, "fc").training.max_iterations == 7
    config = write("config.yaml", load_preset(preset, "fc").to_yaml())
    assert Config.from_yaml(config).preset == "mine"
    sweep = write("sweep.yaml", "name: depth\ntitle: Depth\naxes: {model.conv_blocks: [1, 2]}\n")
    assert load_sweep(sweep).name == "depth"
    assert read_settings(write("other.yaml", "a: 1\n")) is None


READERS = (load_preset, read_class_map, load_sweep, read_settings)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["doubling", "truth"])
def test_every_reader_of_yaml_has_the_limits(reader: object, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BAD_YAML[kind][0], encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.yaml, line \d+, is not YAML"):
        reader(path)  # type: ignore[operator]
