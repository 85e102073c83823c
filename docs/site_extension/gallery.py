"""Pictures for sphinx-gallery: those that a script leaves in ``figure``, which pyplot does not know of."""

from __future__ import annotations

from typing import Any

from sphinx_gallery.scrapers import figure_rst


def scrape(block: tuple[Any, ...], variables: dict[str, Any], settings: dict[str, Any]) -> str:
    """Save the figure of a block of code and return the reStructuredText that shows it."""
    figure = variables["example_globals"].pop("figure", None)
    if figure is None:
        return ""
    path = next(variables["image_path_iterator"])
    figure.savefig(path, dpi=200)
    return str(figure_rst([path], settings["src_dir"]))
