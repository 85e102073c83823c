"""PASCAL VOC folders as people have them, with their mistakes, and XML with broken bytes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from rethink_heads.data.coco import CocoDataset
from rethink_heads.data.shapes import CACHE_VARIABLE
from rethink_heads.data.sources import resolve_split
from tests.fuzz.coco import broken, write_images
from tests.fuzz.harness import REFUSED, Case

BOMB = '<!DOCTYPE a [<!ENTITY e0 "ha">{}]>'.format(
    "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
)
FATAL = {
    "a coordinate": ["", "abc", "nan", "1e999", "4 5", "0x5", "²", "9" * 5000, "<xmin/>"],
    "a side": ["0", "-5", "1.5", "nan", "1e12", "", "9" * 5000],
    "no": ["size", "width", "bndbox", "ymax", "name"],
    "difficult": ["2", "-1", "yes", "0.5"],
    "swapped sides": [""],
    "list": ["twice", "no XML", "empty", "cut", "NUL", "Latin-1", "../up"],
    "whole": ["", "<a>", "<a/>", "<a>" * 100_000, "{}", "a" * 2_000_000, f"{BOMB}<a>&e11;</a>"],
    "size by entity": ["&e11;", "&none;"],
}


def xml(case: Case, size: tuple[int, int], objects: list[Any], file_name: str) -> str:
    """An annotation as VOC, labelImg and others write it."""
    number = case.pick([str, lambda n: f" {n}\n", lambda n: f"{n}.0", lambda n: f"{n:.2f}"])
    sides = [
        f"<width>{number(size[0])}</width>",
        f"<height>{number(size[1])}</height>",
        "<depth>3</depth>",
    ]
    parts = [
        f"<filename>{file_name}</filename>",
        f"<size>{''.join(case.random.sample(sides, 3))}</size>",
    ]
    for name, corners, difficult in objects:
        box = "".join(
            f"<{tag}>{number(value)}</{tag}>"
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        inner = [f"<name>{name}</name>", f"<bndbox>{box}</bndbox>"]
        inner += [f"<difficult>{int(difficult)}</difficult>"] if difficult else []
        inner += ["<pose>Left</pose>", "<!-- object -->", "<truncated>1</truncated>"]
        inner += ["<part><name>hand</name><bndbox><xmax>1</xmax></bndbox></part>"]
        parts.append(f"<object>{''.join(case.random.sample(inner, len(inner)))}</object>")
    parts += ["<segmented>0</segmented>", "<source><name>x</name></source>"]
    space = case.pick(["", "\n  ", "\r\n\t"])
    return f"<annotation>{space}{space.join(case.random.sample(parts, len(parts)))}{space}</annotation>"


def meant(images: list[Any]) -> tuple[Any, ...]:
    """Rows (image, class, corners) of the usable objects, and the number of difficult ones."""
    rows = []
    for index, (_, (width, height), objects) in enumerate(images):
        for name, (left, top, right, bottom), difficult in objects:
            corners = (max(left - 1, 0), max(top - 1, 0), min(right, width), min(bottom, height))
            if not difficult and min(corners[2] - corners[0], corners[3] - corners[1]) >= 0.1:
                rows.append((index, name, tuple(np.float32(corners).tolist())))
    return sorted(rows), sum(each[2] for image in images for each in image[2])


def read(root: Path, split: str) -> tuple[Any, ...]:
    """What the product makes of a folder."""
    dataset = CocoDataset(*resolve_split(str(root), split))
    rows = [
        (index, dataset.class_names[label], tuple(box))
        for index in range(len(dataset))
        for sample in [dataset[index]]
        for box, label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True)
    ]
    return sorted(rows), dataset.box_counts.crowd


def simply(data: bytes, size: tuple[int, int]) -> list[Any] | None:
    """The objects of an XML, or None where it cannot be meant."""
    try:
        root = ElementTree.fromstring(data)
        if tuple(float(root.find("size").findtext(side)) for side in ("width", "height")) != size:
            return None
        found = []
        for item in root.findall("object"):
            box = [
                float(item.find("bndbox").findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")
            ]
            if not all(map(math.isfinite, box)):
                return None
            flag = (item.findtext("difficult") or "0").strip()
            found.append((item.findtext("name").strip(), box, {"0": False, "1": True}[flag]))
        return found
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError, LookupError):
        return None


def check(case: Case) -> None:
    """Read a folder: the objects that its XML says, or a refusal that names the file."""
    way = case.pick(["benign", "benign", "fatal", "fatal", "bytes"])
    names = case.pick([["person", "dog"], ["person", "license plate"], ["Ähre", "kat_1"]])
    suffix = case.pick([".jpg", ".jpg", ".JPG", ".jpeg", ".png", ".PNG"])
    stems = case.pick([["000001", "000002"], ["2008_000001", "2008_000002"], ["a-1", "b.c"]])
    case.input = f"{way}: classes {names}, images {[stem + suffix for stem in stems]}"
    objects = [
        (names[0], (3, 4, 20, 18), False),
        (names[1], (9, 1, 60, 10), False),
        (names[0], (1, 1, 5, 5), True),
    ]
    images = [(stems[0], (40, 30), objects), (stems[1], (24, 32), objects[1:])]
    devkit = case.folder / "VOCdevkit"
    folder = devkit / "VOC2007"
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    write_images(folder / "JPEGImages", {stem + suffix: size for stem, size, _ in images})
    texts = [xml(case, size, objects, stem + suffix) for stem, size, objects in images]
    expected: list[Any] = [meant(images)]
    mark = case.chance(0.3)
    encoding = case.pick(["utf-8-sig" if mark else "utf-8", "utf-8", "utf-16", "iso-8859-1"])
    header = (
        f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
        if encoding != "utf-8"
        else ""
    )
    end = case.pick(["\n", "\r\n", "  \n", "\n\n"])
    lines = end.join(stems) + end
    list_data = lines.encode("utf-8-sig" if mark else "utf-8")
    case.input += f", {encoding}, list {list_data!r}"
    named = [folder.joinpath("Annotations", f"{stems[0]}.xml").name]
    if way == "fatal":
        what = case.pick(list(FATAL))
        value = case.pick(FATAL[what])
        case.input += f"; {what} {value[:30]!r}"
        header = f"{BOMB}" if what == "size by entity" else header
        encoding = "utf-8" if what == "size by entity" else encoding
        texts[0], list_data = spoiled(texts[0], list_data, stems, what, value)
        expected = [*(expected if what == "swapped sides" else []), REFUSED]
        if what == "list":
            named = []
    data = [(header + text).encode(encoding) for text in texts]
    if way == "bytes":
        data[0] = broken(case, data[0])
        said = simply(data[0], (40, 30))
        changed = [(stems[0], (40, 30), said or []), images[1]]
        expected = [REFUSED] if said is None else [meant(changed), REFUSED]
        named = []
    for stem, content in zip(stems, data, strict=True):
        (folder / "Annotations" / f"{stem}.xml").write_bytes(content)
    if "no XML" in case.input:
        (folder / "Annotations" / f"{stems[0]}.xml").unlink()
    (folder / "ImageSets" / "Main" / "test.txt").write_bytes(list_data)
    os.environ[CACHE_VARIABLE] = str(case.folder / "cache")
    root, split = case.pick([(devkit, "test07"), (case.folder, "test2007"), (folder, "test")])
    case.judge(case.read(lambda: read(root, split)), *expected, names=named)


def spoiled(text: str, lines: bytes, stems: list[str], what: str, value: str) -> tuple[str, bytes]:
    """An XML and the list of images with a mistake in one of them."""

    def with_text(tag: str, new: str) -> str:
        before, _, rest = text.partition(f"<{tag}>")
        return f"{before}<{tag}>{new}</{tag}>{rest.partition(f'</{tag}>')[2]}"

    if what in ("a coordinate", "a side", "size by entity"):
        return with_text("xmin" if what == "a coordinate" else "width", value), lines
    if what == "difficult":
        return with_text("difficult", value), lines
    if what == "no":
        before, _, rest = text.partition(f"<{value}>")
        if value in ("bndbox", "ymax", "name"):
            # Not that of a part.
            before, _, rest = text.partition("<object>")
            return f"{before}<object><x/></object>{rest.partition('</object>')[2]}", lines
        return before + rest.partition(f"</{value}>")[2], lines
    if what == "swapped sides":
        return text.replace("width>", "_>").replace("height>", "width>").replace(
            "_>", "height>"
        ), lines
    if what == "list":
        changed = {
            "twice": lines + stems[1].encode() + b"\n",
            "empty": b"\n",
            "cut": lines.rstrip()[:-1],
            "NUL": b"\0" * 10 + b"\n" + lines,
            "Latin-1": lines + b"\xe4\n",
            "../up": lines + b"../up\n",
        }
        return text, changed.get(value, lines)
    return value, lines
