"""matplotlib figures as inline SVG that takes its colours and its font from the page, so that one figure serves light
and dark. Drawn with stand-in colours; `to_svg` replaces each by the style sheet's variable of the same meaning."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

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
    "font.size": 8.5,
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
}
NORMAL, SMALL = (3.5, 2.3), (2.6, 2.0)  # inches: three and four panels in a line
LABEL_GAP = 0.085  # of the axes' height: one line of text


def colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches (72 user units each). Call it, and draw, inside `rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def label_ends(axes: Axes, labels: Sequence[tuple[str, float, str]]) -> None:
    """Write (text, y in data units, colour) right of the axes, pushed apart where they would overlap."""
    axes.get_ylim()  # settles the limits that the transform below goes by: matplotlib leaves autoscaling for later
    to_axes = axes.get_yaxis_transform() + axes.transAxes.inverted()
    places = sorted((float(to_axes.transform((0.5, y))[1]), text, tint) for text, y, tint in labels)
    for spot, (_, text, tint) in zip(spread([y for y, _, _ in places], LABEL_GAP), places, strict=True):
        axes.text(1.02, spot, shorten(text), color=tint, transform=axes.transAxes, va="center", fontsize=8.5)


def spread(places: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Sorted places moved as little as leaves `gap` between neighbours: a crowd becomes a block around its mean."""
    blocks: list[tuple[float, int]] = []  # (centre, members)
    for place in places:
        centre, members = min(max(place, low), high), 1
        while blocks and blocks[-1][0] + gap * (blocks[-1][1] + members) / 2 > centre:
            before, more = blocks.pop()
            centre = (before * more + centre * members) / (more + members)
            members += more
        reach = gap * (members - 1) / 2
        blocks.append((min(max(centre, low + reach), max(high - reach, low + reach)), members))
    return [centre + gap * (index - (members - 1) / 2) for centre, members in blocks for index in range(members)]


def plain_ticks(axis: Axis) -> None:
    """At most five ticks, written out in full with as many digits as tell them apart."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(formatter)


def shorten(text: str, length: int = 20) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an <svg> element: ids begin with `name` (unique in the page), `alt` is what a reader who cannot see
    it is told. No namespaces, metadata or document type: HTML needs none, and so the page names no address at all."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg")
    root = ET.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = local(element.tag)
        if element.tag != "text":
            element.text = None
        element.tail = None
        if element.tag == "g":
            element.attrib.pop("id", None)
        attributes = {local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            element.set(key, rewrite(key, value, name))
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ET.tostring(root, encoding="unicode")


def local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def rewrite(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if key in ("style", "fill", "stroke"):
        value = re.sub(r"#[0-9a-f]{6}", lambda match: variable(match.group()), value)
        value = re.sub(r"font: ([^;]*?)([\d.]+)px[^;]*", r"font-size: \2px", value)
        value = re.sub(r"font-family: [^;]*;?", "", value)
    return value


def variable(stand_in: str) -> str:
    name = VARIABLES.get(stand_in)
    return f"var({name})" if name else stand_in
