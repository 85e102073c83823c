"""Settings as nested mappings: read from YAML, changed by ``key=value``, mistakes explained."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rethink_heads.errors import UserError
from rethink_heads.input_files import shorten
from rethink_heads.yaml_files import parse_yaml, read_yaml

Model = TypeVar("Model", bound=BaseModel)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        UserError: no such file, not YAML, not a mapping, or beyond the limits of :mod:`rethink_heads.yaml_files`.
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

    Raises:
        UserError: an override has no ``=`` or no key, or sets something inside a value.
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

    Raises:
        UserError: the first mistake, with the setting's name and, for an unknown name, the nearest
            valid one.
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
    """The valid setting that was meant, as a question; or those that there are."""
    last = name.rpartition(".")[2]
    same_last = [candidate for candidate in valid if candidate.rpartition(".")[2] == last]
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    by_last = {candidate.rpartition(".")[2]: candidate for candidate in valid}
    close_last = difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.6)
    for candidate in (*same_last, *close, *(by_last[match] for match in close_last)):
        return f"did you mean {candidate!r}?"
    shown = valid if len(valid) <= 10 else sorted({f"{one.partition('.')[0]}.*" for one in valid})
    return f"the settings are {', '.join(shown)}; a run's config.yaml shows them all"
