"""matplotlib figures as inline SVG that takes its colours from the page, so that one figure serves light and dark.

Drawn with stand-in colours; `to_svg` replaces each by the style sheet's variable of the same meaning.
"""

import html
import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#101112", "#606162", "#d0d1d2", "#fcfdfe"
# Okabe and Ito's colours, which remain distinct under the common colour-vision deficiencies.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195")
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    colour: f"--s{index}" for index, colour in enumerate(SERIES)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "counterpoint",
    "text.parse_math": False,
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 8.5,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": MUTED,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
}


def colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches (72 user units each). Call it, and draw, inside `rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def shorten(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an <svg> element: ids begin with `name` (unique in the page), `alt` is read to those who cannot see
    it. No namespaces, metadata or document type: HTML needs none, and so the page names no address at all."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        # Not `savefig`, which draws everything once more before, for the layout that drawing makes itself.
        FigureCanvasSVG(figure).print_svg(buffer)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[ >].*?</style>", "", text, flags=re.DOTALL)
    viewbox = re.search(r'viewBox="[^"]*"', text)
    assert viewbox is not None
    inner = text[text.index(">", viewbox.end()) + 1 : text.rindex("</svg>")]
    # Within tags only: what people call their runs stands between them and stays as it is.
    inner = re.sub(r"<[^>]*>", lambda tag: for_page(tag.group(), name), inner)
    inner = re.sub(r">\s+<", "><", inner)
    return f'<svg role="img" aria-label="{html.escape(alt)}" {viewbox.group()}>{inner}</svg>'


def for_page(tag: str, name: str) -> str:
    """One tag with the page's colours and font, and ids of its own."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag).replace("xlink:href", "href")
    tag = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"#[0-9a-f]{6}\b", lambda found: in_page(found.group()), tag)
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", tag)


def in_page(stand_in: str) -> str:
    variable = VARIABLES.get(stand_in)
    return f"var({variable})" if variable else stand_in
