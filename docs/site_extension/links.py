"""Links in Markdown are between the repository's files, as a code host follows them; here they become the site's.

Files outside docs/ that have a page are included in it, and links to README.md lead to the front page. Other files are
offered for download; of folders, and of Markdown without a page, the name alone stays.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Pages of files that lie elsewhere.
PAGES = {
    **{f"notebooks/{path.name}": f"notebooks/{path.name}" for path in NOTEBOOKS},
    "README.md": "index.md",
    "docs/paper": "gallery/index.rst",
    "notebooks": "notebooks/index.md",
    "RESULTS.md": "results.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks": "benchmarks.md",
    "benchmarks/results/coverage/coverage.md": "intervals.md",
    "figures/README.md": "figures.md",
    "figures": "figures.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def to_site(text: str, source: Path, page: Path) -> str:
    """Rewrite the links of a Markdown file.

    Args:
        text: the file's content.
        source: the file.
        page: the file of the page that shows it, under docs/.
    """

    def rewrite(link: re.Match[str]) -> str:
        is_image, label, target, anchor = link[1], link[2], link[3], link[4] or ""
        path = (source.parent / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return link[0]
        shown_in = PAGES.get(path.relative_to(ROOT).as_posix())
        if shown_in is not None:
            path = DOCS / shown_in
        if path.is_dir() or (path.suffix == ".md" and not path.is_relative_to(DOCS)):
            return label
        return f"{is_image}[{label}]({os.path.relpath(path, page.parent)}{anchor})"

    return LINK.sub(rewrite, text)


def _on_source(app: Sphinx, name: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    if page.suffix == ".md":
        content[0] = to_site(content[0], page, page)


def _on_include(app: Sphinx, included: Path, name: str, content: list[str]) -> None:
    content[0] = to_site(content[0], DOCS / included, Path(app.env.doc2path(name)))


def _copy_notebooks(app: Sphinx, config: object) -> None:
    """As they were run and committed; Sphinx reads below docs/ alone."""
    for path in NOTEBOOKS:
        copy = DOCS / "notebooks" / path.name
        if not copy.is_file() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def setup(app: Sphinx) -> dict[str, Any]:
    """Rewrite every page and every included file as it is read."""
    app.connect("config-inited", _copy_notebooks)
    app.connect("source-read", _on_source)
    app.connect("include-read", _on_include)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
