"""The report's page in a browser: every screen, its numbers, filters, keyboard, links, and what is untrusted."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rethink_heads.evaluation.by_class import BACKGROUND, object_confusions
from rethink_heads.evaluation.causes import CAUSES
from rethink_heads.evaluation.fates import fate_tables
from rethink_heads.evaluation.swaps import swap_tables
from rethink_heads.files import read_csv, write_csv
from rethink_heads.report.cells import NO_INTERVAL, estimate
from rethink_heads.report.contents import Findings, write_report
from tests.made_candidates import crowded_dataset, make_candidates
from tests.report.page_reader import make_findings, measured, read_page

playwright = pytest.importorskip(
    "playwright.sync_api",
    reason="the page is tried in a browser with playwright, which is not there",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EVIL = "<img src=x onerror=alert(1)>"
SCREENS = (
    "verdict",
    "lost",
    "score",
    "boxes",
    "space",
    "stages",
    "compare",
    "classes",
    "thresholds",
    "objects",
    "methods",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"the page is tried in a browser: none of {', '.join(BROWSERS)} is there")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=path, args=arguments)
        yield found
        found.close()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return measured(make_findings(tmp_path_factory.mktemp("data"), images=40, class_name=EVIL))


@pytest.fixture(scope="module")
def path(found: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", found)


@dataclass
class Tab:
    """A tab with the page, and what it complained of or asked for."""

    page: Any
    path: Path
    wrong: list[str] = field(default_factory=list)

    def open(self, address: str = "") -> Any:
        """Open the page anew with a hash."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.path.as_uri()}#{address}")
        self.page.wait_for_selector("html[data-ready]")
        return self.page

    def rows(self, name: str = "objects") -> list[int]:
        """Rows of the objects that are listed, in order."""
        return list(self.page.evaluate("[...rethinkHeads.report.listed]"))

    @property
    def hash(self) -> str:
        """The address's."""
        return str(self.page.evaluate("location.hash"))[1:]


def new_tab(browser: Any, path: Path, **options: Any) -> Tab:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    tab = Tab(context.new_page(), path)
    tab.page.on("console", lambda said: tab.wrong.append(said.text))
    tab.page.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.page.on("dialog", lambda dialog: (tab.wrong.append("a dialog"), dialog.dismiss()))

    def asked(request: Any) -> None:
        if not request.url.startswith((path.as_uri(), "blob:", "about:")):
            tab.wrong.append(f"asked for {request.url}")

    tab.page.on("request", asked)
    return tab


@pytest.fixture
def tab(browser: Any, path: Path) -> Iterator[Tab]:
    found = new_tab(browser, path, accept_downloads=True)
    yield found
    found.page.context.close()
    assert found.wrong == []


@pytest.fixture(scope="module")
def listed(path: Path, found: Findings) -> pd.DataFrame:
    """What the explorer shows of every object, as pandas has it: columns of both heads, by their number."""
    tables = read_page(path)[1]
    objects, heads = tables["objects"], tables["object_heads"]
    for number in range(2):
        own = heads.iloc[number * len(objects) : (number + 1) * len(objects)].reset_index(drop=True)
        for name in ("score", "regressed_iou", "pcc", "best_iou", "top_iou", "fate"):
            objects[f"{name}{number}"] = own[name]
        objects[f"behind{number}"] = own["best_iou"] - own["top_iou"]
    objects["gap"] = objects["score0"] - objects["score1"]
    return objects


def check_numbers(page: Any, found: Findings, folder: Path) -> None:
    """Hold all that the screen has printed against the tables' files."""
    files: dict[str, pd.DataFrame] = {}
    for cell in page.evaluate("rethinkHeads.shown"):
        name = cell["table"]
        if name not in files:
            write_csv(found.tables[name], folder / f"{name}.csv")
            files[name] = read_csv(folder / f"{name}.csv")
        row, column = files[name].iloc[cell["row"]], cell["column"]
        if cell["count"]:
            assert cell["text"] == str(row[column])
            continue
        ends = [cell["scale"] * row[f"{column}{end}"] for end in ("", "_low", "_high")]
        expected = estimate(*ends, digits=cell["digits"], without=NO_INTERVAL)
        assert cell["text"].replace("+", "") == expected, (name, cell)
        assert cell["text"] in page.locator("main").inner_text()


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_opens_and_prints_the_tables_numbers(
    tab: Tab, found: Findings, screen: str, tmp_path: Path
) -> None:
    page = tab.open(screen)
    assert page.locator("main h2").inner_text() != ""
    assert page.locator("nav a[aria-current]").count() == 1
    assert EVIL not in page.content()
    assert page.locator("img").count() == 0
    shown = page.evaluate("rethinkHeads.shown")
    assert (len(shown) > 0) == (screen not in ("objects", "methods", "thresholds"))
    check_numbers(page, found, tmp_path)


def first_object(page: Any) -> str:
    """The id of an object, as text."""
    return str(
        page.evaluate("String(rethinkHeads.report.tables.get('objects').get(0, 'object_id'))")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screens_pass_axe(browser: Any, path: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright")
    tab = new_tab(browser, path, color_scheme=scheme)
    # The marks of charts, whose contrast takes long, have the same roles in both.
    context = {"exclude": [[".plot"]]} if scheme == "dark" else None
    for screen in (*SCREENS, f"objects?object={first_object(tab.open())}"):
        page = tab.open(screen)
        # axe is a script that the page's policy would not let in: it comes in from outside.
        result = axe.Axe().run(page, context=context)
        said = [
            (one["id"], [node["html"][:120] for node in one["nodes"][:3]])
            for one in result["violations"]
        ]
        assert said == [], (screen, said)
    tab.page.context.close()


def test_screens_fit_a_telephone(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 400, "height": 800})
    for screen in (*SCREENS, f"objects?object={first_object(tab.open())}"):
        page = tab.open(screen)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, screen


FILTERS = {
    "": lambda o: o,
    "class": lambda o: o[o["class_name"] == EVIL],
    "size=small&by=pcc&down=1": lambda o: o[o["size"] == "small"].sort_values(
        "pcc0", ascending=False, kind="stable"
    ),
    "fate=missed,not_localized": lambda o: o[o["fate0"].isin(["missed", "not_localized"])],
    "head=1&score=0.6,&by=score&down=0": lambda o: o[o["score1"] >= 0.6].sort_values(
        "score1", kind="stable"
    ),
    "iou=0.75,0.85&by=regressed_iou&down=1": lambda o: o[
        o["regressed_iou0"].between(0.75, 0.85)
    ].sort_values("regressed_iou0", ascending=False, kind="stable"),
    "gap=0.1": lambda o: o[o["gap"].abs() >= 0.1],
    "by=name&down=0": lambda o: o.sort_values("class_name", kind="stable"),
    "by=best_iou&down=1": lambda o: o.sort_values(
        "best_iou0", ascending=False, kind="stable", na_position="last"
    ),
    "preset=misranked&head=1": lambda o: o[
        (o["regressed_iou1"] >= 0.7) & (o["score1"] < 0.6)
    ].sort_values("score1", kind="stable"),
    "preset=unplaced": lambda o: o[(o["regressed_iou0"] < 0.7) & (o["score0"] >= 0.5)].sort_values(
        "regressed_iou0", kind="stable"
    ),
    "preset=disagree": lambda o: (
        o.assign(size_of=o["gap"].abs())
        .query("size_of >= 0.1")
        .sort_values("size_of", ascending=False, kind="stable")
    ),
    "by=other&down=1": lambda o: o.sort_values("score1", ascending=False, kind="stable"),
    "preset=misordered&head=1": lambda o: o[o["behind1"] >= 0.05].sort_values(
        "behind1", ascending=False, kind="stable"
    ),
    "preset=lost": lambda o: o[(o["fate0"] != "found") & (o["fate1"] == "found")],
}


@pytest.mark.parametrize("address", FILTERS)
def test_filters_sorts_and_questions_are_those_of_pandas(
    tab: Tab, listed: pd.DataFrame, address: str
) -> None:
    expected = FILTERS[address](listed)
    page = tab.open("objects?" + (address if address != "class" else ""))
    if address == "class":
        page.get_by_label("Class", exact=True).select_option(EVIL)
    assert len(expected) > 0
    assert tab.rows() == expected.index.tolist()
    said = page.locator("#count").inner_text()
    assert said.split(":")[0] == f"{len(expected)} of {len(listed)} objects"
    assert (":" in said) == ("preset" in address)
    first = page.locator(".list .row").first.inner_text().split("\n")
    row = expected.iloc[0]
    assert first[1] == f"{row['class_name']}, {row['size']}, {row['object_id']}"


def test_columns_sort_by_a_press_and_keep_the_keyboards_place(
    tab: Tab, listed: pd.DataFrame
) -> None:
    page = tab.open("objects")
    for down in (True, False):
        page.get_by_role("button", name="Sort by PCC").press("Enter")
        expected = listed.sort_values("pcc0", ascending=not down, kind="stable")
        assert tab.rows() == expected.index.tolist()
        focused = page.evaluate("document.activeElement.textContent")
        assert focused == f"PCC {'▼' if down else '▲'}"


def test_keys_go_through_objects_and_screens(tab: Tab, listed: pd.DataFrame) -> None:
    page = tab.open()
    page.keyboard.press("3")
    assert tab.hash == "score"
    page.keyboard.press("0")
    assert tab.hash == "objects"
    ids = listed["object_id"].tolist()
    for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        assert f"object={ids[place]}" in tab.hash
        assert page.locator(".detail caption").inner_text().startswith(f"Object {ids[place]}: ")
        assert page.locator(".row.chosen .place").inner_text() == str(place + 1)
    page.locator(".list").focus()
    page.keyboard.press("End")
    assert f"object={ids[-1]}" in tab.hash
    # In a field a letter is a letter.
    page.get_by_role("spinbutton", name="Gap at least").press("j")
    assert f"object={ids[-1]}" in tab.hash
    page.keyboard.press("Tab")
    tab.open()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    # On a telephone the object that was chosen comes into view, with buttons in place of keys.
    page.set_viewport_size({"width": 400, "height": 800})
    page = tab.open("objects")
    page.locator(".list .row").nth(1).click()
    assert page.locator(".detail").evaluate("(each) => each.getBoundingClientRect().top") < 200
    page.get_by_role("button", name="next (j)").click()
    assert f"object={ids[2]}" in tab.hash


def test_a_link_shows_the_same_object_again(browser: Any, tab: Tab) -> None:
    page = tab.open("objects")
    page.get_by_label("Show").select_option("disagree")
    page.get_by_label("Size").select_option("large")
    page.get_by_label("IoU from").fill("0.5")
    page.get_by_label("IoU from").press("Enter")
    page.keyboard.press("Tab")
    page.locator(".list .row").nth(2).click()
    other = new_tab(browser, tab.path)
    again = other.open(tab.hash)
    assert other.rows() == tab.rows()
    for what in (".detail caption", "#count", ".row.chosen"):
        assert again.locator(what).inner_text() == page.locator(what).inner_text()
    again.context.close()
    assert other.wrong == []
    # And back.
    page.go_back()
    assert page.locator("main h2").inner_text() == "Objects"


def test_an_object_has_its_picture_its_boxes_and_its_fate(tab: Tab, listed: pd.DataFrame) -> None:
    row = listed[(listed["best_iou0"] > 0.5) & (listed["fate0"] == "found")].iloc[0]
    page = tab.open(f"objects?object={row['object_id']}")
    picture = page.locator("svg.crop image")
    assert picture.get_attribute("href").startswith("blob:")
    assert picture.evaluate("(image) => image.getBBox().width") > 0
    boxes = read_page(tab.path)[1]["boxes"]
    own = boxes[boxes["object_id"] == row["object_id"]]
    assert page.locator("svg.crop g").count() == len(own) + 1
    assert page.locator("summary").inner_text() == f"{len(own)} boxes near it"
    fate = page.locator(".fates li").first.inner_text()
    assert fate.startswith("near: found. A detection with score")
    cells = page.locator(".detail table").first.locator("tbody tr").first.inner_text().split("\t")
    for text, name in zip(cells[1:3], ("score0", "regressed_iou0"), strict=True):
        assert float(text) == pytest.approx(row[name], abs=6e-4)


def test_the_first_screen_answers_questions(
    tab: Tab, found: Findings, listed: pd.DataFrame
) -> None:
    page = tab.open()
    most = listed.sort_values("gap", key=np.abs, ascending=False, kind="stable").head(5)
    item = page.get_by_role("listitem").filter(has_text="Which objects do heads disagree on most?")
    ids = [int(each.split(" (")[0].split(": ")[-1]) for each in item.inner_text().split("; ")]
    assert ids == most["object_id"].tolist()
    item = page.get_by_role("listitem").filter(has_text="in the order of their true IoU?")
    for _, row in found.tables["lost_precision"].query("cause == 'ranking'").iterrows():
        ends = [100 * row[f"oracle{end}"] for end in ("", "_low", "_high")]
        assert f"{estimate(*ends, digits=1, without=NO_INTERVAL)}%" in item.inner_text()


def test_a_rectangle_selects_objects(tab: Tab, listed: pd.DataFrame) -> None:
    page = tab.open("score")
    page.get_by_label("Score from").fill("0.3")
    page.get_by_label("Score from").press("Tab")
    assert f"Open {(listed['score0'] >= 0.3).sum()} objects" in page.locator("main").inner_text()
    box = page.locator("svg.brushed").bounding_box()
    page.locator("svg.brushed").scroll_into_view_if_needed()
    box = page.locator("svg.brushed").bounding_box()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    settings = page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.split('?')[1]))")
    (low, high), (left, right) = (
        [float(end) for end in settings[name].split(",")] for name in ("bscore", "biou")
    )
    assert 0.5 < left < 0.7 < right <= 1
    inside = listed["score0"].between(low, high) & listed["regressed_iou0"].between(left, right)
    assert 0 < inside.sum() < len(listed)
    page.get_by_role("button", name=f"Open {inside.sum()} object").click()
    assert tab.rows() == listed.index[inside].tolist()


def test_bars_and_cells_open_their_objects(tab: Tab, found: Findings, listed: pd.DataFrame) -> None:
    page = tab.open("lost")
    # At the first threshold there are as many missed, or ranked behind, as the table counts.
    counts = found.tables["lost_precision"].query("head == 'fc'").set_index("cause")["count"]
    heads = read_page(tab.path)[1]["object_heads"].query("head == 'fc'")
    sets = heads[[f"causes_{each}" for each in range(50, 100, 5)]].to_numpy()
    for number, cause in enumerate(CAUSES):
        for at, column in (("0.50", sets[:, :1]), ("0.75", sets[:, 5:6]), ("mean", sets)):
            bar = tab.open("lost").locator(f"rect[aria-label^='{cause.title()} at {at}']").first
            assert (bar.get_attribute("role") == "button") == (cause != "background")
            if cause == "background":
                continue
            bar.dispatch_event("click")
            assert tab.rows() == np.flatnonzero((column >> number & 1).any(axis=1)).tolist()
            if at == "0.50" and cause in ("ranking", "misses"):
                assert len(tab.rows()) == counts[cause]
    page = tab.open("stages")
    page.locator("table.heat button").first.click()
    assert set(listed.loc[tab.rows(), "fate0"]) == {"found"}
    size = listed.loc[listed["fate0"] == "found", "size"].iloc[0]
    tab.open(f"stages?size={size}").locator("table.heat button").first.click()
    chosen = (listed["fate0"] == "found") & (listed["size"] == size)
    assert tab.rows() == np.flatnonzero(chosen).tolist()


def test_a_cell_of_the_confusion_matrix_is_kept_on_every_screen(
    browser: Any, tab: Tab, found: Findings, listed: pd.DataFrame
) -> None:
    own = object_confusions(found.detections, found.dataset).set_index(["head", "object_id"])
    seen = own.loc["fc"].loc[listed["object_id"], "detection_label"].to_numpy()
    label = listed["class_name"].map(found.dataset.class_names.index).to_numpy()
    counts = pd.Series(list(zip(label, seen, strict=True))).value_counts()
    other = next(pair for pair in counts.index if pair[1] not in (pair[0], BACKGROUND))
    missed = next(pair for pair in counts.index if pair[1] == BACKGROUND)
    for pair in (other, missed, (0, 0)):
        page = tab.open("classes")
        row, column = (found.dataset.class_names[each] if each >= 0 else "" for each in pair)
        heads = page.locator("table.heat thead th").all_inner_texts()
        cells = page.locator("table.heat tbody tr", has=page.get_by_role("rowheader", name=row))
        at = heads.index(column or "background") - 1
        cells.first.locator("td").nth(at).locator("button").click()
        chosen = (label == pair[0]) & (seen == pair[1])
        assert tab.rows() == np.flatnonzero(chosen).tolist()
        said = f"{row} seen as {column}" if column else f"{row} missed"
        assert page.locator(".only b").inner_text() == said
        assert f", {chosen.sum()} of {len(listed)} objects" in page.locator(".only").inner_text()
    # The last is kept: by the keyboard, by the links, by what a screen opens, and by the address.
    page.keyboard.press("3")
    assert tab.hash == "score?cell=0.0.0"
    assert f"Open {chosen.sum()} objects" in page.locator("main").inner_text()
    page.get_by_role("link", name="Verdict").click()
    text = page.locator(".only tbody tr").nth(1).locator("td").first.inner_text()
    means = [rows["score1"].mean() for rows in (listed[chosen], listed)]
    assert [float(each) for each in text.rstrip(")").split(" (")] == pytest.approx(means, abs=6e-4)
    page.get_by_role("link", name="Which objects do heads disagree on most?").click()
    assert set(tab.rows()) == set(np.flatnonzero(chosen & listed["gap"].notna()))
    again = new_tab(browser, tab.path)
    again.open(tab.hash)
    assert again.rows() == tab.rows()
    again.page.context.close()
    page = tab.open("stages?cell=0.0.0")
    names = page.locator(".only thead th").all_inner_texts()[1:]
    numbers = page.locator(".only tbody tr").first.locator("td").all_inner_texts()
    fates = listed.loc[chosen, "fate0"].str.replace("_", " ").value_counts()
    assert {n: int(each) for n, each in zip(names, numbers, strict=True) if each != "0"} == dict(
        fates
    )
    page = tab.open(f"thresholds?at=0.555&cell={other[0]}.{other[1]}.0")
    scores = own.loc["fc"].loc[listed["object_id"], "detection_score"].to_numpy()
    still = ((label == other[0]) & (seen == other[1]) & (scores >= 0.555)).sum()
    assert f"by near, {still} still are." in page.locator("#kept").inner_text()
    page = tab.open("classes?cell=0.0.0")
    assert page.locator("table.heat button[aria-pressed=true]").count() == 1
    page.locator(".only button").click()
    assert (tab.hash, page.locator(".only").count()) == ("classes", 0)
    # Of the background there are no objects.
    page.locator("table.heat tbody tr").last.locator("button").first.click()
    assert tab.hash.startswith("thresholds?class=")
    tab.open("objects?cell=nothing")
    assert len(tab.rows()) == len(listed)


def test_a_threshold_says_what_it_keeps(tab: Tab) -> None:
    tables = read_page(tab.path)[1]
    own = tables["detections"].query("detector == 'near' and head == 'fc'")
    objects = len(tables["objects"])

    def check(page: Any, at: float, against: float) -> None:
        kept, before = (own[own["score"] >= each] for each in (at, against))
        hits, earlier = kept["true_positive"].sum(), before["true_positive"].sum()
        wrong, of_these = len(kept) - hits, len(before) - earlier
        expected = (
            f"Score at least {at:g}: {len(kept)} detections, precision"
            f" {100 * hits / len(kept):.1f}%, recall {100 * hits / objects:.1f}% at IoU 0.5."
        )
        if at != against:
            expected += (
                f" Against {against:g}: {abs(hits - earlier)} true positives"
                f" {'lost' if hits < earlier else 'won'}, {abs(wrong - of_these)} false positives"
                f" {'gone' if wrong < of_these else 'added'}."
            )
        assert page.locator("#kept").inner_text() == expected
        for label in ("Score threshold", "Score threshold, number", "Compared with threshold"):
            value = page.get_by_label(label, exact=True).input_value()
            assert float(value) == (against if label == "Compared with threshold" else at)

    page = tab.open("thresholds")
    check(page, 0.5, 0.5)
    chart = page.locator("main svg.chart").first.element_handle()
    page.locator("#threshold").press("ArrowLeft")
    check(page, 0.49, 0.5)
    box = page.get_by_label("Score threshold, number")
    box.fill("0.7305")
    box.press("Enter")
    against = page.get_by_label("Compared with threshold", exact=True)
    against.fill("0.42")
    against.press("Enter")
    check(page, 0.7305, 0.42)
    # Charts were not drawn anew, and the address restores all of it.
    assert chart.evaluate("(each) => each.isConnected")
    assert tab.hash == "thresholds?at=0.7305&against=0.42"
    check(tab.open(tab.hash), 0.7305, 0.42)
    # What is no threshold is the nearest, or the first.
    for text, at in (("7", 1), ("", 0.5)):
        box.fill(text)
        box.press("Enter")
        assert float(box.input_value()) == at


SELECTIONS = ("", "class=0", "size=small", "class=0&size=large")


@pytest.mark.parametrize("only", ["whole", "decided", "all"])
@pytest.mark.parametrize("chosen", SELECTIONS)
def test_differences_of_a_class_and_size_are_those_of_pandas(
    tab: Tab, found: Findings, listed: pd.DataFrame, chosen: str, only: str
) -> None:
    page = tab.open(f"compare?only={only}")
    label, size = "class" in chosen, chosen.partition("size=")[2]
    if label:
        page.get_by_label("Class", exact=True).select_option(EVIL)
    if size:
        page.get_by_label("Size", exact=True).select_option(size)
    metrics = {"APs": "small", "APm": "medium", "APl": "large"}
    expected = []
    for table in found.tables.values():
        if "difference" not in table or "bin" in table:
            continue
        rows = table.assign(own_class="", own_size="")
        rows["own_class"] = rows.get("class_name", "")
        rows["own_size"] = (
            rows["size"]
            if "size" in rows
            else rows.get("metric", pd.Series("", rows.index)).map(metrics)
        )
        # The ends of the steps are AP and AP with the ranking fixed.
        rows = rows[~rows["step"].isin([0, 1])] if "step" in rows else rows
        rows = rows[rows["own_class"] == EVIL] if label else rows
        rows = rows[rows["own_size"] == size] if size else rows
        if only == "decided":
            rows = rows[rows["excludes_zero"]]
        if only == "whole":
            for name, values in (
                ("size", [size or "all"]),
                ("class_name", [EVIL if label else "all"]),
                ("iou", ["0.50", "mean"]),
                ("step", []),
            ):
                rows = rows[rows[name].isin(values)] if name in rows else rows
            rows = rows.iloc[:0] if "distance" in rows else rows
        expected += rows["difference"].tolist()
    said = page.locator(".controls .note").inner_text()
    assert said.split(" ")[0].replace(",", "") == str(len(expected))
    numbers = page.locator("main table").first.locator("tbody td:nth-child(2)").all_inner_texts()
    assert len(numbers) == min(400, len(expected))
    assert len(numbers) > 0 or only == "decided"
    # Rounded, and shares in per cent.
    own = [float(text.split(" ")[0]) if text != "-" else np.nan for text in numbers]
    for text, value in zip(own, expected, strict=False):
        assert any(
            text == pytest.approx(scale * value, abs=0.06 if scale == 100 else 6e-4, nan_ok=True)
            for scale in (1, 100)
        )
    # Objects that moved are of the class and size, too.
    movers = listed[listed["gap"] > 0].sort_values("gap", ascending=False, kind="stable")
    movers = movers[movers["class_name"] == EVIL] if label else movers
    movers = movers[movers["size"] == size] if size else movers
    ids = page.get_by_role("region", name="Higher with near").locator("tbody th").all_inner_texts()
    assert [int(each) for each in ids] == movers["object_id"].head(8).tolist()


def test_the_only_class_of_a_size_has_the_interval_of_the_size(
    browser: Any, found: Findings, tmp_path: Path
) -> None:
    tables = dict(found.tables)
    for name in ("by_class", "by_class_comparisons"):
        rows = tables[name]
        tables[name] = rows[(rows["size"] != "small") | (rows["class_name"] == EVIL)]
    alone = dataclasses.replace(found, tables=tables)
    tab = new_tab(browser, write_report(tmp_path / "report.html", alone, crops_mb=0))
    ap = tables["ap"].query("detector == 'near' and head == 'fc' and metric == 'APs'").iloc[0]
    ends = [100 * ap[f"value{end}"] for end in ("", "_low", "_high")]
    page = tab.open("classes?size=small")
    texts = page.locator("main table").first.locator("tbody td").all_inner_texts()
    assert texts[1] == estimate(*ends, digits=1, without=NO_INTERVAL)
    difference = tables["ap_comparisons"].query("metric == 'APs'").iloc[0]
    ends = [100 * difference[f"difference{end}"] for end in ("", "_low", "_high")]
    page = tab.open("compare?class=0&size=small&table=AP by class, %")
    page.get_by_label("Class", exact=True).select_option(EVIL)
    row = page.locator("main table").first.locator("tbody tr")
    assert row.count() == 1
    text = row.locator("td").first.inner_text()
    assert text.replace("+", "") == estimate(*ends, digits=1, without=NO_INTERVAL)
    page.context.close()


def test_every_table_can_be_taken_out_as_its_csv(tab: Tab, found: Findings, tmp_path: Path) -> None:
    page = tab.open("methods")
    for name in ("ap", "by_class", "pcc"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"{name}.csv", exact=True).click()
        waiting.value.save_as(tmp_path / "own.csv")
        own = read_csv(tmp_path / "own.csv")
        pd.testing.assert_frame_equal(own, found.tables[name], check_dtype=False, rtol=0, atol=0)


def test_a_browser_without_streams_reads_the_same(tab: Tab) -> None:
    whole = "rethinkHeads.report.tables.get('object_heads').csv()"
    expected = tab.open().evaluate(whole)
    tab.page.add_init_script("delete window.DecompressionStream")
    assert tab.open().evaluate("typeof DecompressionStream") == "undefined"
    assert tab.page.evaluate(whole) == expected


def test_linked_images_are_shown_where_there_is_no_crop(
    browser: Any, found: Findings, tmp_path: Path
) -> None:
    path = write_report(tmp_path / "report.html", found, crops_mb=0, link_images=True)
    tab = new_tab(browser, path)
    first = read_page(path)[1]["objects"].iloc[0]
    with tab.page.expect_response(lambda response: response.url.endswith(".png")) as waiting:
        tab.open(f"objects?object={first['object_id']}")
    assert Path(waiting.value.url.removeprefix("file://")).is_file()
    assert [each for each in tab.wrong if "asked for file:" not in each] == []
    tab.page.context.close()


def test_stages_fates_and_swaps_are_of_the_candidates(browser: Any, tmp_path: Path) -> None:
    dataset = crowded_dataset(tmp_path / "data", images=30)
    candidates = make_candidates(dataset)
    keys = [("one", "fc"), ("one", "conv")]
    tables = fate_tables(candidates, dataset, [(keys[0], keys[1])], replicates=50)
    fates = tables.pop("object_fates")
    tables |= swap_tables(candidates, dataset, keys=keys, replicates=50)
    found = Findings(keys, dataset, tables, fates=fates, candidates=candidates)
    tab = new_tab(browser, write_report(tmp_path / "report.html", found))
    for screen in ("stages?iou=0.75&size=large", "compare?only=all"):
        page = tab.open(screen)
        assert page.locator("table.heat td").count() > 3
        check_numbers(page, found, tmp_path)
    objects = read_page(tab.path)[1]["objects"]
    own = fates[(fates["detector"] == "one") & (fates["head"] == "fc")].set_index("object_id")
    assert len(set(own["fate"])) > 5
    for fate, rows in own.groupby("fate"):
        page = tab.open(f"objects?fate={fate}&object={rows.index[0]}")
        assert set(objects["object_id"].iloc[tab.rows()]) == set(rows.index)
        said = page.locator(".fates li").first.inner_text()
        assert len(said) > 40, said
        assert "undefined" not in said
        assert "NaN" not in said
    assert tab.wrong == []
    page.context.close()


def test_what_was_not_measured_is_one_line(browser: Any, tmp_path: Path) -> None:
    bare = make_findings(tmp_path / "data", images=5, pictures=False)
    tab = new_tab(browser, write_report(tmp_path / "report.html", bare))
    page = tab.open()
    assert "Boxes" not in page.locator("nav").inner_text()
    assert "Boxes. Predefined proposals were not measured" in page.locator("main").inner_text()
    page = tab.open("boxes")
    assert "rethink-heads regress measures them" in page.locator("main").inner_text()
    assert page.locator("main svg").count() == 0
    first = read_page(tab.path)[1]["objects"].iloc[0]
    page = tab.open(f"objects?object={first['object_id']}")
    assert "not in the file" in page.locator(".detail").inner_text()
    assert np.all(read_page(tab.path)[1]["objects"]["crop"] == -1)
    assert tab.wrong == []
    page.context.close()
