"""How figures look, and how a matplotlib figure becomes an inline SVG that follows the page's colours.

Figures are drawn in stand-in colours (``INK``, ``SERIES``, ...) that the page's style sheet replaces through
CSS variables, so one drawing serves light mode, dark mode and print. Images use transparent colour maps
for the same reason: their background is that of the page.
"""

import contextlib
import dataclasses
import html
import io
import re
from collections.abc import Iterator
from typing import Any

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#040001", "#040002", "#040003", "#040004", "#040005", "#040006")
BLUE, ORANGE = (0.07, 0.5, 0.82), (0.89, 0.45, 0.08)
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    color: f"--series-{i}" for i, color in enumerate(SERIES, start=1)
}
FONT_SIZE = 8.5
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE - 0.5,
    "ytick.labelsize": FONT_SIZE - 0.5,
    "legend.fontsize": FONT_SIZE - 0.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing: SVG markup, and where its axes lie as shares of its width (for the moving cursor)."""

    svg: str
    left: float = 0.0
    right: float = 1.0
    top: float = 0.0
    bottom: float = 1.0


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure: panels side by side, and the caption that says what is shown, n and what an interval is.

    Attributes:
        columns: Of panels; 0 for one panel across the page, with photographs.
    """

    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 2


@contextlib.contextmanager
def canvas(width: float, height: float, **margins: float) -> Iterator[tuple[Any, Any]]:
    """Yield a figure of ``width`` x ``height`` inches and its axes, in the report's style.

    Args:
        margins: ``left``, ``right``, ``top`` and ``bottom`` in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sides = {"left": 0.55, "right": 0.12, "top": 0.3, "bottom": 0.45} | margins
    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height))
        wide, high = width - sides["left"] - sides["right"], height - sides["top"] - sides["bottom"]
        axes = figure.add_axes((sides["left"] / width, sides["bottom"] / height, wide / width, high / height))
        yield figure, axes


def to_panel(figure: Any, axes: Any, *, key: str, description: str) -> Panel:
    """Turn a figure into a panel whose ids start with ``key``, so that many fit into one page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({**RC, "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    box = axes.get_position()
    return Panel(
        svg=inline_svg(buffer.getvalue(), key=key, description=description),
        left=box.x0,
        right=box.x1,
        top=1 - box.y1,
        bottom=1 - box.y0,
    )


def inline_svg(text: str, *, key: str, description: str) -> str:
    """Strip what only a stand-alone file needs, make ids unique, and let CSS choose the colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style type=.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None  # matplotlib always writes one
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{key}-', body).replace("xlink:href=", "href=")
    body = body.replace("url(#", f"url(#{key}-")
    for color, variable in VARIABLES.items():
        body = body.replace(f": {color}", f": var({variable})")
    body = re.sub(r"<[^>]*>", _shorter_numbers, body)  # in tags only: text keeps its digits
    body = re.sub(r"\n\s*", "\n", body)
    label = html.escape(description, quote=True)
    return f'<svg {view_box.group()} role="img" aria-label="{label}">{body}'


def _shorter_numbers(tag: re.Match[str]) -> str:
    if tag.group().startswith("<image"):
        return tag.group()
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", tag.group())


def diverging(values: Any) -> Any:
    """Colour values in [0, 1] (H, W): blue above one half, orange below, clear at it; grey where NaN.

    Returns:
        RGBA image (H, W, 4), uint8.
    """
    import numpy as np

    distance = np.clip(np.abs(np.nan_to_num(values, nan=0.5) - 0.5) * 2, 0, 1)
    image = np.empty((*np.shape(values), 4))
    image[..., :3] = np.where((np.asarray(values) >= 0.5)[..., None], BLUE, ORANGE)
    image[..., 3] = distance**0.8 * 0.95
    image[np.isnan(values)] = (0.5, 0.5, 0.5, 0.35)
    return (image * 255).round().astype(np.uint8)


def sequential(values: Any, color: tuple[float, float, float] = BLUE) -> Any:
    """Colour values in [0, 1] (H, W) from clear to ``color``, grey where NaN; RGBA (H, W, 4), uint8."""
    import numpy as np

    image = np.empty((*np.shape(values), 4))
    image[..., :3] = color
    image[..., 3] = np.clip(np.nan_to_num(values), 0, 1)
    image[np.isnan(values)] = (0.5, 0.5, 0.5, 0.35)
    return (image * 255).round().astype(np.uint8)
