"""Reads the YAML that people write, within limits: whatever it holds, a mistake is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rethink_heads.errors import UserError
from rethink_heads.input_files import read_text, shorten, shown, unwritable

MOST_VALUES = 50_000
DEEPEST = 40
MOST_DIGITS = 100

_TAG = "tag:yaml.org,2002:"
_PLAIN = tuple(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map"))


def read_yaml(path: Path, what: str = "file") -> Any:
    """Return what a YAML file holds, in Python's own types; dates stay text.

    Raises:
        UserError: as of :func:`~rethink_heads.input_files.read_text` and :func:`parse_yaml`, with the file and,
            where it is known, the line.
    """
    return parse_yaml(
        read_text(path, what), f"{what} {shown(path)}" if what != "file" else shown(path)
    )


def parse_yaml(text: str, where: str) -> Any:
    """Return what YAML says, in Python's own types; dates stay text.

    Raises:
        UserError: it is not YAML, has a key twice or a tag of another type, or passes a limit: aliases that repeat
            more than ``MOST_VALUES`` values or themselves, ``DEEPEST`` levels, ``MOST_DIGITS`` digits.
    """
    loader = None
    try:
        loader = _PlainLoader(text)
        return loader.get_single_data()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{where}, line {line}, is not YAML: it has the character U+{int(error.character):04X}; take it out"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line_named = f", line {mark.line + 1}," if mark else ""
        reason = " ".join(str(error.problem or error.context).split())
        raise UserError(f"{where}{line_named} is not YAML that can be read: {reason}") from error
    finally:
        if loader is not None:
            loader.dispose()


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain types within the limits of this module."""

    yaml_constructors = {  # noqa: RUF012
        tag: build for tag, build in yaml.SafeLoader.yaml_constructors.items() if tag in _PLAIN
    }
    # Dates stay text, as there is no setting that is one.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [each for each in resolvers if each[0] in (*_PLAIN, f"{_TAG}merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count values, an alias as all that it repeats, and refuse what is too many or too deep."""
        event: Any = self.peek_event()
        before, self._count, self._depth = self._count, self._count + 1, self._depth + 1
        if self._depth > DEEPEST:
            raise _Refusal(f"it is nested more than {DEEPEST} levels deep", event)
        node: Any = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _Refusal(f"*{shorten(str(event.anchor))} repeats what it is part of", event)
            self._count += self._sizes[node]
        else:
            self._sizes[node] = self._count - before
        if self._count > MOST_VALUES:
            raise _Refusal(f"it has more than {MOST_VALUES:,} values", event)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Refuse a key that is there twice: the first would be lost without a word."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _Refusal(f"the key {shorten(key.value)!r} is there twice", key)
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Build a node's value; what cannot be built is told with its line."""
        short = shorten(str(node.value)) if isinstance(node, yaml.ScalarNode) else ""
        if node.tag not in self.yaml_constructors:
            tag = shorten(node.tag.replace(_TAG, "!!"))
            raise _Refusal(f"only plain values are read, not {tag}; write text in quotes", node)
        if isinstance(node, yaml.ScalarNode):
            if character := unwritable(node.value):
                raise _Refusal(f"{short!r} has {character}, which no text file can hold", node)
            if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > MOST_DIGITS:
                raise _Refusal(f"{short} has more than {MOST_DIGITS} digits", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            kind = node.tag.removeprefix(_TAG)
            raise _Refusal(f"{short!r} cannot be read as {kind}", node) from error


class _Refusal(yaml.MarkedYAMLError):
    def __init__(self, problem: str, at: Any) -> None:
        super().__init__(problem=problem, problem_mark=at.start_mark)
