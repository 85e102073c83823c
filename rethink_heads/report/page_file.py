"""One self-contained HTML page of result tables: typed columns, compressed, with the scripts that draw them.

The page opens from the disk and asks for nothing: its policy forbids every request, and only the script and the style
in it may run. Names of classes, detectors and images in the data are untrusted: they are in the compressed JSON alone,
and the scripts put them into the page as text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import posixpath
import re
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rethink_heads.files import atomic_path

MODULES = (
    "inflate.js",
    "data.js",
    "dom.js",
    "format.js",
    "charts.js",
    "table.js",
    "objects.js",
    "only.js",
    "screens/common.js",
    "screens/verdict.js",
    "screens/lost.js",
    "screens/score.js",
    "screens/boxes.js",
    "screens/space.js",
    "screens/stages.js",
    "screens/detail.js",
    "screens/objects.js",
    "screens/compare.js",
    "screens/classes.js",
    "screens/thresholds.js",
    "screens/methods.js",
    "screens/all.js",
    "app.js",
)
"""The scripts, each after those that it imports."""
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "([^"]*)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:const|function|class|async function) (\w+))", re.MULTILINE)
# Columns of 16 bits: the code of a value that is not a number.
ABSENT = 2**16 - 1


def write_page(
    path: Path,
    header: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    quantised: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    crops: Sequence[bytes] = (),
) -> None:
    """Write the page, whole or not at all.

    Args:
        header: what the screens need beside tables: "title", "subtitle", "series", "sentences", "warnings",
            "definitions", "provenance", "absent", and "images" (the address of a folder) where images are linked.
        tables: frames by name; columns of floats keep their type.
        quantised: by table the columns that are stored in 16 bits, with the range of their values.
        crops: JPEG files, by the number that the objects' column "crop" has.

    Raises:
        UserError: the file cannot be written.
    """
    script, style = _script(), _asset("style.css")
    ends = np.cumsum([len(crop) for crop in crops]).tolist()
    data = pack({**header, "crops": ends}, tables, quantised or {})
    # Images beside the page are asked for only where it was made to link them.
    pictures = "blob: file: 'self'" if header.get("images") else "blob:"
    allowed = {"script": f"'{_digest(script)}'", "style": f"'{_digest(style)}'", "img": pictures}
    policy = "default-src 'none'; " + "; ".join(f"{kind}-src {of}" for kind, of in allowed.items())
    parts = {
        "policy": policy,
        "title": escape(str(header["title"])),
        "style": style,
        "data": base64.b64encode(data).decode(),
        "crops": base64.b64encode(b"".join(crops)).decode(),
        "script": script,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(
            re.sub(r"@(\w+)@", lambda name: parts[name[1]], _asset("page.html")), encoding="utf-8"
        )


def pack(
    header: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    quantised: Mapping[str, Mapping[str, tuple[float, float]]],
) -> bytes:
    """Compress the header with the tables' columns after it, each at a multiple of eight bytes."""
    specs: dict[str, Any] = {}
    columns: list[bytes] = []
    end = 0
    for name, frame in tables.items():
        spec = []
        for column in frame.columns:
            values, more = _column(frame[column], (quantised.get(name) or {}).get(column))
            stored = values.tobytes()
            spec.append({"name": str(column), "offset": end, **more})
            columns.append(stored + bytes(-len(stored) % 8))
            end += len(columns[-1])
        specs[name] = {"rows": len(frame), "columns": spec}
    text = json.dumps(_plain({**header, "tables": specs}), allow_nan=False).encode()
    begin = struct.pack("<I", len(text)) + text
    whole = begin + bytes(-len(begin) % 8) + b"".join(columns)
    # No time in it: the same report has the same bytes.
    return gzip.compress(whole, compresslevel=6, mtime=0)


def _column(
    values: pd.Series, ends: tuple[float, float] | None
) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """A column's numbers as they are stored, and how the page reads them."""
    if ends is not None:
        low, high = ends
        scale = (high - low) / (ABSENT - 1)
        codes = np.rint((np.clip(values.to_numpy(float), low, high) - low) / scale)
        stored = np.where(np.isnan(codes), ABSENT, codes).astype("<u2")
        return stored, {"type": "u2", "scale": scale, "low": low, "absent": ABSENT}
    if values.dtype == bool:
        return values.to_numpy(np.uint8), {"type": "u1", "truth": True}
    if pd.api.types.is_float_dtype(values.dtype):
        kind = "f4" if values.dtype == np.float32 else "f8"
        return values.to_numpy(f"<{kind}"), {"type": kind}
    if pd.api.types.is_integer_dtype(values.dtype) and _fits(values):
        low, high = (0, 0) if values.empty else (int(values.min()), int(values.max()))
        kind = (
            "i4" if low < 0 else next(k for k in ("u1", "u2", "u4") if high < 2 ** (8 * int(k[1])))
        )
        return values.to_numpy(f"<{kind}"), {"type": kind}
    # Each value becomes text once, not each row's; of mixed types 1 and True would be one value.
    places: Any = np.arange(len(values))
    distinct: Any = values
    if not pd.api.types.infer_dtype(values).startswith("mixed"):
        places, distinct = pd.factorize(values, use_na_sentinel=False)
    of_distinct, strings = pd.factorize(np.array([_text(each) for each in distinct], object))
    codes = of_distinct[places]
    kind = next(k for k in ("u1", "u2", "u4") if len(strings) < 2 ** (8 * int(k[1])))
    return codes.astype(f"<{kind}"), {"type": kind, "strings": strings.tolist()}


def _fits(values: pd.Series) -> bool:
    return values.empty or (
        values.min() >= -(2**31) and values.max() < (2**32 if values.min() >= 0 else 2**31)
    )


def _text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    # A lone half of a surrogate pair has no UTF-8.
    return str(value).encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    """The value as strict JSON takes it: what is not a finite number is null."""
    if isinstance(value, Mapping):
        return {_text(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else _text(value)


def _script() -> str:
    """All modules in one script, each a function of its own that gives what it exports."""
    parts = ["const modules = {};"]
    for name in MODULES:
        text = _asset(name)
        folder = name.rpartition("/")[0]
        exports = ", ".join(found[2] for found in _EXPORT.finditer(text))
        text = _IMPORT.sub(partial(_imported, folder), _EXPORT.sub(r"\1", text))
        parts.append(f'modules["{name}"] = (() => {{\n{text}\nreturn {{ {exports} }};\n}})();')
    return "\n".join(parts)


def _imported(folder: str, found: re.Match[str]) -> str:
    """The line that takes what a module imports from one that stands before it."""
    name = posixpath.normpath(posixpath.join(folder, found[2]))
    return f'const {found[1]} = modules["{name}"];'


def _asset(name: str) -> str:
    return resources.files("rethink_heads.report").joinpath("page", name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
