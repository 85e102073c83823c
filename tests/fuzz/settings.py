"""Files and texts of settings: config.yaml, class maps, class names, sweeps and KEY=VALUE."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.classes import read_class_map, read_class_names
from rethink_heads.sweeps.description import load_sweep
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
# No detector, machine or grid has as many; what only cuts a list, such as measuring.images, may be of any size.
BOUNDED = [
    *("fpn_channels", "roi_resolution", "sampling_ratio", "fc_width", "conv_width", "conv_bottleneck", "conv_blocks"),
    *("rpn_proposals_train", "rpn_proposals_test", "rois_per_image", "detections_per_image", "min_size", "max_size"),
]  # fmt: skip
NUMBERS = [f"model.{name}" for name in BOUNDED]
NUMBERS += [f"training.{name}_iterations" for name in ("max", "warmup")]
NUMBERS += [f"measuring.{name}" for name in ("grid_steps", "rows_per_bin", "memory_mb")]
NUMBERS += ["training.batch_size", "training.workers", "seed"]
ABSURD = [str(10**9 + 1), str(10**12), str(2**63), "9" * 400, "1" + "0" * 5000, "-1"]
ABSURD += ["-" + "7" * 30, "nan", "inf", "1.5", "", "²"]
EXAMPLES = {"model.min_size": "1", "measuring.grid_steps": "9999", "training.workers": "99999999"}


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


def check_names(case: Case) -> None:
    """A file of class names: those that were written, in their order."""
    names = ["person", "Straße", "traffic light", "007", "犬"]
    case.random.shuffle(names)
    way = case.pick(["benign", "twice", "bytes", "hostile"])
    path = case.folder / "names.txt"
    end = case.pick(["\n", "\r\n", " \n", "\n\n", "\r"])
    lines = names + names[:1] * (way == "twice")
    data = (case.pick(["", "\ufeff"]) + end.join(lines) + case.pick(["", end])).encode()
    if way == "hostile":
        data = case.pick(
            [b"", b"\n \n", b"\xff\xfe\0", b"\x80abc", b"a\0b\n", b"\x1b[31mred\n" * 2]
        )
    case.input = f"class names {way} {data!r}"
    if way == "bytes":
        return check_bytes(case, path, data, read_class_names)
    found = case.read(lambda: read_class_names(write(path, data)))
    expected = tuple(names) if way == "benign" else REFUSED
    return case.judge(found, expected, names=[names[0] if way == "twice" else "names.txt"])


def check_override(case: Case) -> None:
    """KEY=VALUE with numbers beyond reason, hostile YAML or unknown keys."""
    way = case.pick(["number", "number", "hostile", "key", "good"])
    name, value = case.pick(NUMBERS), "12"
    if way == "number":
        value = case.pick([*ABSURD, EXAMPLES.get(name, "1e12")])
    elif way == "key":
        name = case.pick(
            ["", ".", "model", "model.", "nothing", "model.min_size.x", "\ud800", "x" * 9999]
        )
    elif way == "hostile":
        name, value = case.pick([*NUMBERS, "training.milestones", "model"]), case.pick(HOSTILE)
    else:
        name = case.pick([*NUMBERS[:5], "training.batch_size"])
    case.input = f"override {way}: {shortened(name, 40)}={shortened(value, 60)}"
    if name == "training.milestones" and value.startswith("[1, 1"):
        return
    found = case.read(lambda: load_preset("shapes-tiny", "fc", [f"{name}={value}"]))
    if way == "good" and isinstance(found, Config):
        section, _, key = name.partition(".")
        found = getattr(getattr(found, section), key)
    case.judge(found, 12 if way == "good" else REFUSED)


def check_sweep(case: Case) -> None:
    """A sweep's file with one thing changed."""
    points = [{"label": "a", "overrides": ["model.conv_blocks=1"]}, {"label": "b"}]
    values = {"preset": "shapes-tiny", "points": points}
    case.input = "sweep"
    change(case, values)
    text = in_other_words(case, values)
    if case.chance(0.5):
        text += f"\nextra: {case.pick(HOSTILE)}"
        case.input += f" with {shortened(text[-80:])}"
    case.read(lambda: load_sweep(write(case.folder / "sweep.yaml", text)))


def check(case: Case) -> None:
    """One of the kinds of settings."""
    kinds = [check_config, check_config, check_class_map, check_names, check_override, check_sweep]
    case.pick(kinds)(case)
