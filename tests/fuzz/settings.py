"""Files and texts of settings: config.yaml, class maps, class names, sweeps and KEY=VALUE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from rethink_heads.config import Config, load_preset
from rethink_heads.detectors.classes.map_file import read_class_map
from rethink_heads.detectors.classes.names_file import read_class_names
from rethink_heads.sweeps.loading import load_sweep
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
NUMBERS = [f"model.{name}" for name in BOUNDED] + [
    *(
        "training.max_iterations",
        "training.batch_size",
        "training.workers",
        "training.warmup_iterations",
    ),
    *("measuring.grid_steps", "measuring.rows_per_bin", "measuring.memory_mb", "seed"),
]
ABSURD = [
    str(10**9 + 1),
    str(10**12),
    str(2**63),
    "9" * 400,
    "1" + "0" * 5000,
    "-1",
    "-" + "7" * 30,
]
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


def preset_values() -> dict[str, Any]:
    return load_preset("shapes-tiny", "fc").model_dump(mode="json")


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


def check_config(case: Case) -> None:
    """A run's config.yaml: the same settings, or a refusal."""
    values = preset_values()
    way = case.pick(["benign", "tree", "tree", "hostile", "bytes"])
    case.input = f"config.yaml {way}"
    if way == "hostile":
        value = case.pick(HOSTILE)
        text = case.pick(["{}", "model: {{min_size: {}}}", "data:\n  source: shapes\nseed: {}"])
        case.input += f" {shortened(text.format(value), 100)}"
        path = write(case.folder / "config.yaml", text.format(value))
        case.judge(case.read(lambda: Config.from_yaml(path)), REFUSED, names=["config.yaml"])
        return
    if way == "tree":
        change(case, values)
    try:
        text = in_other_words(case, values)
    except RecursionError:
        return
    path = write(case.folder / "config.yaml", text)
    if way == "bytes":
        write(path, broken(case, path.read_bytes()))
        case.read(lambda: Config.from_yaml(path))
        return
    found = case.read(lambda: Config.from_yaml(path))
    if way == "benign":
        case.judge(found, Config.model_validate(values))
    elif isinstance(found, Config) and not same(values, found.model_dump(mode="json")):
        taken = found.model_dump(mode="json")
        pairs = [(k, values[k], taken[k]) for k in values if not same(values[k], taken.get(k))]
        raise WrongError(f"a setting taken for another; said and taken: {shortened(pairs)}")


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
        allowed = [REFUSED]
        if value in (
            "!!null x",
            "\ufffe",
            "!!binary x",
            "0b",
            "0o9",
            "\x07",
            "\x1b[31m",
            '"\\ud800"',
        ):
            allowed = [REFUSED, *([{"person": None}, {"person": value}, {value: "person"}])]
        case.judge(case.read(lambda: read_class_map(write(path, text))), *allowed)
        return
    if way == "tree":
        change(case, values)
    text = json.dumps(values) if is_json else in_other_words(case, values)
    data = text.encode("utf-8", "surrogatepass")
    if way == "bytes":
        case.read(lambda: read_class_map(write(path, broken(case, data))))
        return
    found = case.read(lambda: read_class_map(write(path, data)))
    good = values and all(isinstance(each, str | None) for each in values.values())
    printable = "".join(f"{key}{value}" for key, value in values.items()).isprintable()
    case.judge(found, values if good else REFUSED, *([] if good and printable else [REFUSED]))


def check_names(case: Case) -> None:
    """A file of class names: those that were written, in their order."""
    names = ["person", "Straße", "traffic light", "007", "犬"]
    case.random.shuffle(names)
    way = case.pick(["benign", "twice", "bytes", "hostile"])
    case.input = f"class names {way}"
    path = case.folder / "names.txt"
    if way == "hostile":
        data = case.pick(
            [b"", b"\n \n", b"\xff\xfe\0", b"\x80abc", b"a\0b\n", b"\x1b[31mred\n" * 2]
        )
        case.input += f" {data!r}"
        case.judge(
            case.read(lambda: read_class_names(write(path, data))), REFUSED, names=["names.txt"]
        )
        return
    end = case.pick(["\n", "\r\n", " \n", "\n\n", "\r"])
    data = (end.join(names + names[:1] * (way == "twice")) + end * (case.chance(0.5))).encode()
    data = b"\xef\xbb\xbf" * (case.chance(0.5)) + data
    case.input += f" {data!r}"
    if way == "bytes":
        case.read(lambda: read_class_names(write(path, broken(case, data))))
        return
    found = case.read(lambda: read_class_names(write(path, data)))
    case.judge(found, REFUSED if way == "twice" else tuple(names), names=[names[0]])


def check_override(case: Case) -> None:
    """KEY=VALUE with numbers beyond reason, hostile YAML or unknown keys."""
    way = case.pick(["number", "number", "hostile", "key", "good"])
    if way == "number":
        name = case.pick(NUMBERS)
        value = case.pick([*ABSURD, EXAMPLES.get(name, "1e12"), "nan", "inf", "1.5", "", "²"])
    elif way == "key":
        name, value = (
            case.pick(
                ["", ".", "model", "model.", "nothing", "model.min_size.x", "\ud800", "x" * 9999]
            ),
            "5",
        )
    elif way == "hostile":
        name, value = (case.pick([*NUMBERS, "training.milestones", "model"]), case.pick(HOSTILE))
    else:
        name, value = case.pick([*NUMBERS[:5], "training.batch_size"]), "12"
    case.input = f"override {way}: {shortened(name, 40)}={shortened(value, 60)}"
    if name == "training.milestones" and value.startswith("[1, 1"):
        return
    found = case.read(lambda: load_preset("shapes-tiny", "fc", [f"{name}={value}"]))
    if way == "good":
        section, _, key = name.partition(".")
        found = found if isinstance(found, Exception) else getattr(getattr(found, section), key)
        case.judge(found, 12)
    else:
        case.judge(found, REFUSED)


def check_sweep(case: Case) -> None:
    """A sweep's file with one thing changed."""
    values = {
        "preset": "shapes-tiny",
        "points": [{"label": "a", "overrides": ["model.conv_blocks=1"]}, {"label": "b"}],
    }
    case.input = "sweep"
    change(case, values)
    text = in_other_words(case, values)
    if case.chance(0.5):
        text += f"\nextra: {case.pick(HOSTILE)}"
        case.input += f" with {shortened(text[-80:])}"
    path = write(case.folder / "sweep.yaml", text)
    case.read(lambda: load_sweep(path))


def check(case: Case) -> None:
    """One of the kinds of settings."""
    kinds = [check_config, check_config, check_class_map, check_names, check_override, check_sweep]
    case.pick(kinds)(case)
