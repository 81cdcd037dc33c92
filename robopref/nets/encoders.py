"""From a flat observation to features: as numbers, as a cloud of points, or as a picture.

Letters used in shapes: B observations, O their entries, F features, P points or pixels, C channels of each, H
and W height and width, R other entries of the observation.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robopref.errors import ConfigError, unknown_name
from robopref.nets.normalise import Normaliser


class StateEncoder(nn.Module):
    """The observation itself, normalised.

    Args:
        observation_size: O.
        floor, clip: Of the :class:`~robopref.nets.normalise.Normaliser`.
    """

    def __init__(self, observation_size: int, *, floor: float = 1e-2, clip: float = 10.0) -> None:
        super().__init__()
        self.normaliser = Normaliser(observation_size, floor=floor, clip=clip)
        self.size = observation_size

    def fit(self, observations: Float[Tensor, "B O"]) -> None:
        """Take mean and deviation from observations."""
        self.normaliser.fit(observations)

    def forward(self, observations: Float[Tensor, "B O"]) -> Float[Tensor, "B F"]:
        """Features."""
        return self.normaliser(observations)


class PointEncoder(nn.Module):
    """A small PointNet (Qi et al. 2017): one perceptron for every point, then the largest of each feature.

    The features do not depend on the order of the points. What follows the points in the observation (the
    robot's state, say) is normalised as numbers and appended.

    Args:
        observation_size: O = count * channels + R; the points come first, point by point.
        count: Points, P.
        channels: Numbers of a point, C; the first may be its coordinates in metres.
        features: Of the cloud.
        floor, clip: Of the normalisers. All points share one: a channel has one mean and one deviation.
    """

    def __init__(
        self,
        observation_size: int,
        *,
        count: int,
        channels: int = 3,
        features: int = 64,
        floor: float = 1e-2,
        clip: float = 10.0,
    ) -> None:
        super().__init__()
        rest = observation_size - count * channels
        if min(count, channels, features) < 1 or rest < 0:
            raise ConfigError(
                f"An observation of {observation_size} numbers does not hold {count} points of {channels} "
                "numbers: set encoder.count and encoder.channels to what the environment gives"
            )
        self.count, self.channels = count, channels
        self.normaliser = Normaliser(channels, floor=floor, clip=clip)
        self.rest = Normaliser(rest, floor=floor, clip=clip) if rest else None
        self.layers = nn.Sequential(
            nn.Linear(channels, features), nn.GELU(), nn.Linear(features, features), nn.GELU()
        )
        self.last = nn.Linear(2 * features, features)
        self.size = features + rest

    def fit(self, observations: Float[Tensor, "B O"]) -> None:
        """Take mean and deviation of every channel from all points."""
        points, rest = self._split(observations)
        self.normaliser.fit(points.reshape(-1, self.channels))
        if self.rest is not None:
            self.rest.fit(rest)

    def forward(self, observations: Float[Tensor, "B O"]) -> Float[Tensor, "B F"]:
        """Features."""
        points, rest = self._split(observations)
        each = self.layers(self.normaliser(points))
        cloud = self.last(torch.cat([each.amax(1), each.mean(1)], -1))
        return cloud if self.rest is None else torch.cat([cloud, self.rest(rest)], -1)

    def _split(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        size = self.count * self.channels
        return observations[:, :size].unflatten(1, (self.count, self.channels)), observations[:, size:]


class ImageEncoder(nn.Module):
    """Three convolutions of stride 2 over a small picture, then one layer over all places.

    A picture is numbers like any other observation: row by row, pixel by pixel, channel by channel, in
    whatever range (0 to 255 of a camera). What follows it (the robot's state, say) is normalised as numbers
    and appended.

    Args:
        observation_size: O = height * width * channels + R; the picture comes first.
        height, width: Of the picture in pixels, H and W.
        channels: Numbers of a pixel, C.
        features: Of the picture.
        filters: Of the first convolution; the others have twice as many.
        floor, clip: Of the normalisers. All pixels share one: a channel has one mean and one deviation.
    """

    def __init__(
        self,
        observation_size: int,
        *,
        height: int,
        width: int,
        channels: int = 3,
        features: int = 64,
        filters: int = 16,
        floor: float = 1e-2,
        clip: float = 10.0,
    ) -> None:
        super().__init__()
        rest = observation_size - height * width * channels
        if min(channels, features, filters) < 1 or min(height, width) < 8 or rest < 0:
            raise ConfigError(
                f"An observation of {observation_size} numbers does not hold a picture of {height} x {width} "
                f"pixels of {channels} numbers (at least 8 x 8): set encoder.height, encoder.width and "
                "encoder.channels to what the environment gives"
            )
        self.shape, self.count, self.channels = (height, width, channels), height * width, channels
        self.normaliser = Normaliser(channels, floor=floor, clip=clip)
        self.rest = Normaliser(rest, floor=floor, clip=clip) if rest else None
        widths = [channels, filters, 2 * filters, 2 * filters]
        self.layers = nn.Sequential(
            *(
                layer
                for i, o in pairwise(widths)
                for layer in (nn.Conv2d(i, o, kernel_size=3, stride=2, padding=1), nn.GELU())
            )
        )
        places = -(-height // 8) * -(-width // 8)
        self.last = nn.Linear(widths[-1] * places, features)
        self.size = features + rest

    def fit(self, observations: Float[Tensor, "B O"]) -> None:
        """Take mean and deviation of every channel from all pixels."""
        pixels, rest = self._split(observations)
        self.normaliser.fit(pixels.reshape(-1, self.channels))
        if self.rest is not None:
            self.rest.fit(rest)

    def forward(self, observations: Float[Tensor, "B O"]) -> Float[Tensor, "B F"]:
        """Features."""
        pixels, rest = self._split(observations)
        picture = self.normaliser(pixels).unflatten(1, self.shape[:2]).permute(0, 3, 1, 2)
        features = self.last(self.layers(picture).flatten(1))
        return features if self.rest is None else torch.cat([features, self.rest(rest)], -1)

    def _split(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        size = self.count * self.channels
        return observations[:, :size].unflatten(1, (self.count, self.channels)), observations[:, size:]


Encoder = StateEncoder | PointEncoder | ImageEncoder
ENCODERS: dict[str, type[Encoder]] = {
    "state": StateEncoder,
    "points": PointEncoder,
    "image": ImageEncoder,
}


def make_encoder(description: Mapping[str, Any], observation_size: int) -> Encoder:
    """Build the encoder that a configuration describes: ``{"kind": "points", "count": 128, ...}``.

    Raises:
        ConfigError: There is no such kind or option, or it does not fit the observation.
    """
    options = dict(description)
    kind = options.pop("kind", None)
    if kind not in ENCODERS:
        raise ConfigError(unknown_name("kind of encoder", str(kind), ENCODERS))
    try:
        return ENCODERS[kind](observation_size, **options)
    except TypeError as error:
        raise ConfigError(f"The encoder {dict(description)} cannot be built: {error}") from error
