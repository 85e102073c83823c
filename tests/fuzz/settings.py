"""Files of settings: config.yaml and class maps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.classes import read_class_map
from tests.fuzz.coco import broken, change
from tests.fuzz.harness import REFUSED, Case, WrongError, shortened

BOMB = "[" + ", ".join(
    ["&a0 [x, x]"] + [f"&a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
)  # fmt: skip
HOSTILE = [
    *("&a [*a]", "&a {b: *a}", f"{BOMB}]", "!!bool x", "!!int x", "!!float x", "!!timestamp x", "2001-99-99"),
    *("2001-01-01 99:99:99", "9" * 5000, "-" + "9" * 5000, "[" * 50_000, "{a: " * 50_000, "- " * 20_000 + "x"),
    *("!!binary x", "!!binary é", "!!python/object/apply:os.getcwd []", "!!python/name:os.system", "*nothing"),
    *("{[]: 1}", "{{a: 1}: 2}", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "{<<: 1}", "{<<: [1]}"),
    *("\0", "\x1b[31m", "\x07", "'open", '"\\ud800"', "@x", "`x", "%x", "0b", "0o9", "!x y", "!!null x", "\ufffe"),
    *("x" * 300_000, "[" + "1, " * 100_000 + "1]"),
]  # fmt: skip


def in_other_words(case: Case, values: Any) -> str:
    """YAML of the same meaning: flow or block, other orders, marks, comments, line ends."""
    text = yaml.safe_dump(
        values,
        default_flow_style=case.pick([None, True, False]),
        sort_keys=case.chance(0.5),
        allow_unicode=case.chance(0.5),
        default_style=case.pick([None, None, "'", '"']),
        width=case.pick([20, 10_000]),
        explicit_start=case.chance(0.3),
    )
    if case.chance(0.3):
        text = f"# settings: é\n{text}\n\n# end"
    if case.chance(0.3):
        text = text.replace("\n", "\r\n")
    return case.pick(["", "", "\ufeff"]) + text


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def same(said: Any, taken: Any) -> bool:
    """Whether a setting is what a file says: texts of numbers are numbers, true is no number."""
    if isinstance(said, dict):
        return isinstance(taken, dict) and all(same(said[key], taken[key]) for key in said)
    if isinstance(said, list):
        return isinstance(taken, list) and len(said) == len(taken) and all(map(same, said, taken))
    if isinstance(taken, bool) or isinstance(said, bool):
        return said is taken or str(said).lower() in (("yes", "on", "true", "1", "y", "t", "1.0") if taken else
                                                      ("no", "off", "false", "0", "n", "f", "0.0", "-0.0"))  # fmt: skip
    if isinstance(taken, int | float) and said is not None:
        return float(said) == float(taken)
    return said == taken or str(taken).endswith(str(said)) or str(said) == "-0.0"


def check_bytes(case: Case, path: Path, data: bytes, reader: Callable[[Path], Any]) -> None:
    """Bytes that were broken are read as something, or refused."""
    case.read(lambda: reader(write(path, broken(case, data))))


def check_config(case: Case) -> None:
    """A run's config.yaml: the same settings, or a refusal."""
    values = load_preset("shapes-tiny", "fc").model_dump(mode="json")
    way = case.pick(["benign", "tree", "tree", "hostile", "bytes"])
    case.input = f"config.yaml {way}"
    path = case.folder / "config.yaml"
    if way == "hostile":
        place = case.pick(["{}", "model: {{min_size: {}}}", "data:\n  source: shapes\nseed: {}"])
        text = place.format(case.pick(HOSTILE))
        case.input += f" {shortened(text, 100)}"
        found = case.read(lambda: Config.from_yaml(write(path, text)))
        return case.judge(found, REFUSED, names=["config.yaml"])
    if way == "tree":
        change(case, values)
    try:
        text = in_other_words(case, values)
    except RecursionError:
        return None
    if way == "bytes":
        return check_bytes(case, path, text.encode("utf-8", "surrogatepass"), Config.from_yaml)
    found = case.read(lambda: Config.from_yaml(write(path, text)))
    if way == "benign" or not isinstance(found, Config):
        return case.judge(found, Config.model_validate(values) if way == "benign" else REFUSED)
    taken = found.model_dump(mode="json")
    wrong = [(k, v, taken.get(k)) for k, v in values.items() if not same(v, taken.get(k))]
    if wrong:
        raise WrongError(f"a setting taken for another; said and taken: {shortened(wrong)}")
    return None


def check_class_map(case: Case) -> None:
    """A class map: the mapping that was written, or a refusal."""
    values = {
        "person": "Person",
        "Straße": None,
        "no": "yes",
        "traffic light": "light: red",
        "7": "#seven",
    }
    way = case.pick(["benign", "tree", "hostile", "bytes"])
    case.input = f"class map {way}"
    is_json = case.chance(0.3)
    path = case.folder / case.pick(["map.json", "map.JSON"] if is_json else ["map.yaml", "map.txt"])
    if way == "hostile":
        value = case.pick([each for each in HOSTILE if not each.startswith("x")])
        text = case.pick(["{}", "person: {}", "{}: person", "a: b\nperson: {}"]).format(value)
        case.input += f" {shortened(text, 100)}"
        # These are texts, or null, in some places; dates are texts.
        texts = ["\ufffe", "0b", "0o9", "2001-99-99", "2001-01-01 99:99:99"]
        meant = [{"person": None}] if value == "!!null x" else []
        if value in texts:
            meant = [{"person": value}, {value: "person"}]
        meant += [{"a": "b", **each} for each in meant]
        found = case.read(lambda: read_class_map(write(path, text)))
        return case.judge(found, REFUSED, *meant)
    if way == "tree":
        change(case, values)
    text = json.dumps(values) if is_json else in_other_words(case, values)
    data = text.encode("utf-8", "surrogatepass")
    if way == "bytes":
        return check_bytes(case, path, data, read_class_map)
    found = case.read(lambda: read_class_map(write(path, data)))
    good = values and all(isinstance(each, str | None) for each in values.values())
    printable = "".join(f"{key}{value}" for key, value in values.items()).isprintable()
    return case.judge(
        found, values if good else REFUSED, *([] if good and printable else [REFUSED])
    )


def check(case: Case) -> None:
    """One of the kinds of settings."""
    case.pick([check_config, check_config, check_class_map])(case)
