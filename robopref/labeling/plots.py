"""What is shown of data without frames, simulator or keypoints: curves of its observations.

Letters used in shapes: R states, F frames, H and W height and width in pixels, O numbers in an observation.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from robopref.training.video import Frames

SIZE = 480  # pixels a side
MOST_CURVES = 12  # more cannot be told apart at this size
INK, WORDS, GREY, FAINT, CURVE = (41, 37, 36), (87, 83, 78), (120, 113, 108), (231, 229, 228), (37, 99, 235)


def draw_plots(
    observations: Float[np.ndarray, "R O"], ranges: Float[np.ndarray, "2 O"], *, every: int = 1
) -> Frames:
    """Draw one frame per ``every`` states: each number as a curve up to now, what follows in grey.

    Of many numbers, those are shown that vary most over the whole data, so that all clips show the same.

    Args:
        observations: The states of the clip.
        ranges: Lowest and highest value of each number, which the curves are drawn between.
        every: Steps from one frame to the next.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=15)
    low, high = ranges
    shown = _most_varied(low, high)
    scaled = (observations[:, shown] - low[shown]) / np.maximum(high - low, 1e-9)[shown]
    image = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    left_out = f" ({len(shown)} of {len(low)} shown)" if len(shown) < len(low) else ""
    curves = _curves(np.clip(scaled, -0.1, 1.1))
    for number, curve in zip(shown, curves, strict=True):
        top = float(curve[0, 2])
        draw.line((0, top, SIZE, top), fill=FAINT)
        name = f"observation {number}" + ("" if number != shown[0] else left_out)
        draw.text((SIZE - 8 - draw.textlength(name, font), top + 1), name, fill=WORDS, font=font)
        draw.line([tuple(point) for point in curve[:, :2].tolist()], fill=(214, 211, 209), width=2)
    frames = [_frame(image, curves, step) for step in range(0, len(observations), every)]
    return np.stack(frames)


def _most_varied(low: Float[np.ndarray, " O"], high: Float[np.ndarray, " O"]) -> list[int]:
    """Choose numbers that change at all, relative to their size, in their own order."""
    spread = (high - low) / np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-9)
    order = np.argsort(-spread, kind="stable")[:MOST_CURVES]
    return sorted(i for i in order.tolist() if spread[i] > 1e-6) or [0]


def _curves(scaled: Float[np.ndarray, "R C"]) -> list[np.ndarray]:
    """Return for each number its points in pixels, and the top of its strip."""
    states, count = scaled.shape
    strip = SIZE / count
    across = np.linspace(8, SIZE - 8, states)
    tops = np.arange(count) * strip
    inner = strip - 22  # below the name
    return [
        np.stack([across, top + 18 + inner * (1 - scaled[:, i]), np.full(states, top)], axis=1)
        for i, top in enumerate(tops)
    ]


def _frame(background: Any, curves: list[np.ndarray], step: int) -> np.ndarray:
    from PIL import ImageDraw

    image = background.copy()
    draw = ImageDraw.Draw(image)
    now = float(curves[0][step, 0])
    draw.line((now, 0, now, SIZE), fill=GREY)
    for curve in curves:
        past = [tuple(point) for point in curve[: step + 1, :2].tolist()]
        if len(past) > 1:
            draw.line(past, fill=CURVE, width=3)
        x, y = past[-1]
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=INK)
    return np.asarray(image)
