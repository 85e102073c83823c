"""Settings as nested mappings: read from YAML, changed by ``key=value``, mistakes explained."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from rethink_heads.bounds import HEADS, head_name
from rethink_heads.errors import UserError, shorten, shown, unwritable
from rethink_heads.files import read_text

Model = TypeVar("Model", bound=BaseModel)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.
    Raises UserError for no file, no YAML, no mapping, or one beyond the limits of :mod:`rethink_heads.settings`.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings: expected keys and values in YAML")
    unnamed = [key for key in values if not isinstance(key, str)]
    if unnamed:
        raise UserError(
            f"{path}: {shorten(repr(unnamed[0]))} is no name of a setting; write names and values"
        )
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set ``section.key=value`` for each override, in place. Keys are checked by :func:`validate`.
    Raises UserError where an override has no ``=`` or no key, or sets something inside a value.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UserError(
                f"cannot read {shorten(override)!r} as a setting; write key=value,"
                " for example training.max_iterations=100"
            )
        target = values
        for part in parts[:-1]:
            nested = target.get(part)
            if nested is None:
                nested = target[part] = {}
            if not isinstance(nested, dict):
                raise UserError(
                    f"cannot set {shorten(key)!r}: {shorten(part)!r} is {shorten(repr(nested))}, which has no settings"
                )
            target = nested
        target[parts[-1]] = _parse(text.strip())


def validate(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """Return ``values`` as ``model``.
    Raises UserError for the first mistake, with the setting's name and, for an unknown name, the nearest valid one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(model, error, where)) from error


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every setting of a model as a dotted name, sections themselves left out."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_names(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _parse(text: str) -> Any:
    """Read lists, mappings and null as YAML; leave the rest to pydantic.

    YAML would make a number of ``data.source=2007`` and text of ``1e-4``; pydantic knows the type.
    """
    if text.lower() == "none":
        return None
    try:
        value = parse_yaml(text, "the value")
    except UserError:
        return text
    return value if value is None or isinstance(value, (list, dict)) else text


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    mistakes = error.errors()
    # An unknown name first: it often is why another setting has a bad value.
    unknown = [mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"]
    mistake = (unknown or mistakes)[0]
    name = ".".join(shorten(str(part)) for part in mistake["loc"])
    others = len({other["loc"][:2] for other in mistakes} - {mistake["loc"][:2]})
    more = f" (and {others} more mistakes)" if others > 1 else " (and one more)" * others
    if unknown:
        # An unknown section holds what was meant.
        inner = mistake["input"]
        while isinstance(inner, dict) and inner:
            key, inner = next(iter(inner.items()))
            name += f".{shorten(str(key))}"
        nearest = nearest_setting(name, list(setting_names(model)))
        return f"unknown setting {shorten(name)!r} ({where}); {nearest}{more}"
    if mistake["type"] == "missing":
        return f"setting {name!r} is missing ({where}){more}"
    message = shorten(mistake["msg"].removeprefix("Value error, "), 300)
    subject = f"bad value for {name}" if name else "bad settings"
    has_value = not isinstance(mistake["input"], (dict, BaseModel))
    value = f" {shorten(repr(mistake['input']))}:" if has_value else ""
    return f"{subject} ({where}):{value} {message[:1].lower()}{message[1:]}{more}"


def nearest_setting(name: str, valid: list[str]) -> str:
    """Return the valid setting that was meant, as a question; or those that there are."""
    last = name.rpartition(".")[2]
    same_last = [candidate for candidate in valid if candidate.rpartition(".")[2] == last]
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    by_last = {candidate.rpartition(".")[2]: candidate for candidate in valid}
    close_last = difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.6)
    for candidate in (*same_last, *close, *(by_last[match] for match in close_last)):
        return f"did you mean {candidate!r}?"
    shown = valid if len(valid) <= 10 else sorted({f"{one.partition('.')[0]}.*" for one in valid})
    return f"the settings are {', '.join(shown)}; a run's config.yaml shows them all"


PRESETS = resources.files("rethink_heads") / "presets"
MOST_VALUES = 50_000
DEEPEST = 40
MOST_DIGITS = 100

_TAG = "tag:yaml.org,2002:"
_PLAIN = tuple(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map"))


def read_yaml(path: Path, what: str = "file") -> Any:
    """Return what a YAML file holds, in Python's own types; dates stay text. Raises UserError as
    :func:`~rethink_heads.files.read_text` and :func:`parse_yaml`, with the file and, where it is known, the line.
    """
    return parse_yaml(
        read_text(path, what), f"{what} {shown(path)}" if what != "file" else shown(path)
    )


def parse_yaml(text: str, where: str) -> Any:
    """Return what YAML says, in Python's own types; dates stay text.
    Raises UserError where it is not YAML, has a key twice or a tag of another type, or passes a limit: aliases that
    repeat more than ``MOST_VALUES`` values or themselves, ``DEEPEST`` levels, ``MOST_DIGITS`` digits.
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


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that come with the package, sorted."""
    names = (entry.name for entry in PRESETS.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def split_preset(name: str) -> tuple[str, str | None]:
    """Split a preset's name that ends in a head's into the two; any other name comes back with None."""
    for recipe in preset_names():
        head = name.removeprefix(f"{recipe}-")
        if head != name and head_name(head) in HEADS:
            return recipe, head
    return name, None


def preset_values(name: str) -> dict[str, Any]:
    """Return what a preset's file says, given its name or the path of a file of one's own.
    Raises UserError where there is no such preset, or the file cannot be read.
    """
    if name in preset_names():
        with resources.as_file(PRESETS / f"{name}.yaml") as path:
            return read_mapping(path)
    if Path(name).suffix in (".yaml", ".yml"):
        return read_mapping(Path(name))
    raise UserError(
        f"unknown preset {name!r}; the presets are {', '.join(preset_names())}"
        " (or give the path of a .yaml file)"
    )
