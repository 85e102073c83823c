"""Formulas and graphs that need no script from a network: MathML, and mermaid's graphs as SVG."""

from __future__ import annotations

import html
import re
from graphlib import TopologicalSorter
from typing import Any, ClassVar

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WIDTH, HEIGHT, ROW, GAP = 104, 30, 68, 22
"""Of a box, of the distance of two rows, and between two boxes, in pixels."""


class Mermaid(SphinxDirective):
    """A graph of lines ``a --> b``, which a code host draws by itself."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The drawing, as part of the page."""
        arrows = re.findall(r"^\s*(\w+) --> (\w+)\s*$", "\n".join(self.content), re.MULTILINE)
        if not arrows:
            raise self.error("no line of the graph reads `a --> b`")
        return [nodes.raw("", draw(arrows), format="html")]


def draw(arrows: list[tuple[str, str]]) -> str:
    """An SVG of a graph without circles: each node a row below the lowest that points to it."""
    above: dict[str, list[str]] = {}
    for start, end in arrows:
        above.setdefault(start, [])
        above.setdefault(end, []).append(start)
    rows: dict[str, int] = {}
    for name in TopologicalSorter(above).static_order():
        rows[name] = 1 + max((rows[each] for each in above[name]), default=-1)
    places: dict[str, tuple[float, float]] = {}
    width = max(list(rows.values()).count(row) for row in rows.values()) * (WIDTH + GAP)
    for row in sorted(set(rows.values())):
        # Near what points to them.
        names = sorted(
            (name for name in rows if rows[name] == row),
            key=lambda name: sum(places[each][0] for each in above[name]) / len(above[name] or [0]),
        )
        step = width / len(names)
        for number, name in enumerate(names):
            places[name] = ((number + 0.5) * step, ROW * row + HEIGHT / 2 + 1)
    lines = [_arrow(places[start], places[end]) for start, end in arrows]
    boxes = [_box(name, *place) for name, place in places.items()]
    height = ROW * max(rows.values()) + HEIGHT + 2
    return (
        f'<svg class="graph" role="img" viewBox="0 0 {width} {height}" width="{width}">'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="currentColor"/></marker></defs>'
        f"<title>{html.escape('; '.join(f'{a} to {b}' for a, b in arrows))}</title>"
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    y1, y2 = y1 + HEIGHT / 2, y2 - HEIGHT / 2
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"'
        ' fill="none" stroke="currentColor" stroke-opacity=".5" marker-end="url(#head)"/>'
    )


def _box(name: str, x: float, y: float) -> str:
    return (
        f'<rect x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="4"'
        ' fill="var(--color-background-secondary)" stroke="currentColor" stroke-opacity=".5"/>'
        f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" font-size="14" fill="currentColor">{name}</text>'
    )


def _formula(translator: Any, node: nodes.Element) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the renderer of formulas."""
    app.add_directive("mermaid", Mermaid)
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
