"""What a drawn figure shows: its texts, whether they fit, and its pixels; detections to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from rethink_heads.data.coco import CocoDataset
from rethink_heads.plots.style import paper_style
from tests.made_detections import make_detections


def detections_by(dataset: CocoDataset, keys: list[tuple[str, str]]) -> pd.DataFrame:
    """Made detections of several detectors and heads, each worse than the one before."""
    frames = [
        make_detections(dataset, seed, detector, head, 0.05 + 0.02 * seed)
        for seed, (detector, head) in enumerate(keys)
    ]
    return pd.concat(frames, ignore_index=True)


def pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """The figure as (H, W, 4) uint8."""
    with paper_style():
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba()).copy()


@dataclass(frozen=True)
class RenderedFigure:
    """A figure, what it looks like, and the texts that can be seen."""

    figure: Figure
    image: np.ndarray
    texts: list[Text]

    def texts_below(self) -> list[str]:
        """The lines of the caption."""
        return [line for text in self.figure.texts for line in text.get_text().split("\n")]

    def misplaced(self) -> list[str]:
        """Texts that reach over the figure's edge, and pairs that lie over each other."""
        boxes = [text.get_window_extent() for text in self.texts]
        width, height = self.figure.bbox.width, self.figure.bbox.height
        wrong = [
            f"cut off: {text.get_text()!r}"
            for text, box in zip(self.texts, boxes, strict=True)
            if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width + 0.5 or box.y1 > height + 0.5
        ]
        for (one, a), (other, b) in combinations(zip(self.texts, boxes, strict=True), 2):
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            down = min(a.y1, b.y1) - max(a.y0, b.y0)
            if across > 0.5 and down > 0.5:
                wrong.append(f"overlapping: {one.get_text()!r} and {other.get_text()!r}")
        return wrong


def draw(figure: Figure) -> RenderedFigure:
    """Draw a figure."""
    image = pixels(figure)
    hidden = _out_of_view(figure)
    texts = [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]
    return RenderedFigure(figure, image, texts)


def _out_of_view(figure: Figure) -> set[Text]:
    """Labels of ticks beyond the ends of their axis: kept by matplotlib, but not drawn."""
    labels = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    labels |= {tick.label1, tick.label2}
    return labels
