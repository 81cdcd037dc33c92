"""What the tasks' own functions ask of NumPy, SciPy and ``reward_utils``, sooner and to the last bit.

Each function here gives the same numbers, of the same types, for the arguments that the tasks give at a step,
and hands all others to the original.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

# --- NumPy on small vectors

_FLOAT = np.dtype(np.float64)


def norm(x: Any, ord: Any = None, **options: Any) -> Any:
    """``np.linalg.norm`` of a vector or number, as NumPy computes it: the root of its product with itself."""
    if (ord is None or ord == 2) and not options:
        if type(x) is np.ndarray and x.ndim == 1 and x.dtype == _FLOAT:
            if not x.flags.c_contiguous:
                x = x.ravel(order="K")
            return np.float64(math.sqrt(x.dot(x)))
        if type(x) is np.float64 and ord is None:
            return np.float64(math.sqrt(x * x))
    return np.linalg.norm(x, ord, **options)


def _hstack(parts: Any, **options: Any) -> np.ndarray:
    if not options and all(type(part) is np.ndarray and part.ndim == 1 for part in parts):
        return np.concatenate(parts)
    if not options and all(type(part) is np.float64 for part in parts):
        return np.array(parts)
    return np.hstack(parts, **options)


def _clip(x: Any, *bounds: Any, **options: Any) -> Any:
    if len(bounds) == 2 and not options:
        if type(x) is np.ndarray:
            return x.clip(*bounds)
        if type(x) is np.float32 and all(type(bound) in (int, float) for bound in bounds):
            return np.float32(min(max(x, bounds[0]), bounds[1]))
    return np.clip(x, *bounds, **options)


def _abs(x: Any, *rest: Any, **options: Any) -> Any:
    return abs(x) if type(x) is np.float64 and not rest and not options else np.abs(x, *rest, **options)


_NUMPY = SimpleNamespace(**vars(np))
_NUMPY.linalg = SimpleNamespace(**vars(np.linalg))
_NUMPY.linalg.norm, _NUMPY.hstack, _NUMPY.clip, _NUMPY.abs = norm, _hstack, _clip, _abs


# --- orientations


class Quaternion:
    """What the tasks ask of ``scipy.spatial.transform.Rotation``: ``from_matrix(m).as_quat()``."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> Any:
        """Markley 2008, as SciPy follows it, without what corrects matrices that are no rotation."""
        (a, b, c), (d, e, f), (g, h, i) = rows = matrix.tolist()
        if not _is_rotation(*rows):
            return Rotation.from_matrix(matrix)
        trace = a + e + i
        largest = max(a, e, i, trace)
        if largest == a:
            q = (1 - trace + 2 * a, d + b, g + c, h - f)
        elif largest == e:
            q = (b + d, 1 - trace + 2 * e, h + f, c - g)
        elif largest == i:
            q = (c + g, f + h, 1 - trace + 2 * i, d - b)
        else:
            q = (h - f, c - g, d - b, 1 + trace)
        x, y, z, w = q
        norm = math.sqrt(x * x + y * y + z * z + w * w)
        return Quaternion(np.array((x / norm, y / norm, z / norm, w / norm)))

    def as_quat(self) -> np.ndarray:
        """(x, y, z, w), (4,)."""
        return self._values


def _is_rotation(first: list[float], second: list[float], third: list[float]) -> bool:
    """Whether SciPy takes the rows for orthonormal and right-handed, with room to spare."""
    (a, b, c), (d, e, f), (g, h, i) = first, second, third
    return (
        abs(a * a + b * b + c * c - 1) + abs(d * d + e * e + f * f - 1) < 1e-13
        and abs(a * d + b * e + c * f) < 1e-14
        and abs(b * f - c * e - g) + abs(c * d - a * f - h) + abs(a * e - b * d - i) < 1e-14
    )


# --- rewards

_LONG_TAIL_SCALE = float(np.sqrt(1 / 0.1 - 1))
_GAUSSIAN_SCALE = float(np.sqrt(-2 * np.log(0.1)))
_FAR = 1e100  # from here on the original decides, as Python refuses powers that overflow


def _tolerance(
    x: Any,
    bounds: Any = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """``reward_utils.tolerance`` of a number, with a long tail or a Gaussian one."""
    lower, upper = bounds
    if value_at_margin == 0.1 and isinstance(x, float) and margin > 0 and lower <= upper:
        if lower <= x <= upper:
            return 1.0
        beyond = float(lower - x if x < lower else x - upper) / float(margin)
        if beyond < _FAR:  # neither infinite nor NaN
            if sigmoid == "long_tail":
                return 1 / ((beyond * _LONG_TAIL_SCALE) ** 2 + 1)
            if sigmoid == "gaussian":
                return float(np.exp(-0.5 * (beyond * _GAUSSIAN_SCALE) ** 2))
    return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)  # pyright: ignore[reportArgumentType]


def gripper_caging_reward(
    self: Any,
    action: np.ndarray,
    obj_pos: np.ndarray,
    obj_radius: Any,
    pad_success_thresh: Any,
    object_reach_radius: Any,
    xz_thresh: Any,
    desired_gripper_effort: Any = 1.0,
    high_density: bool = False,
    medium_density: bool = False,
) -> Any:
    """``SawyerXYZEnv._gripper_caging_reward``, number by number where upstream makes arrays of two."""
    if high_density and medium_density:
        raise ValueError("Can only be either high_density or medium_density")
    y, y_initially = float(obj_pos[1]), float(self.obj_init_pos[1])
    between = (obj_radius, pad_success_thresh)
    caging_lr = []
    for pad in ("leftpad", "rightpad"):
        pad_y = float(self.get_body_com(pad)[1])
        margin = abs(abs(pad_y - y_initially) - pad_success_thresh)
        caging_lr.append(_tolerance(abs(pad_y - y), between, margin, "long_tail"))
    caging_y = reward_utils.hamacher_product(*caging_lr)

    tcp, xz = self.tcp_center, slice(0, 3, 2)
    margin = norm(self.obj_init_pos[xz] - self.init_tcp[xz]) - xz_thresh
    caging_xz = _tolerance(norm(tcp[xz] - obj_pos[xz]), (0, xz_thresh), margin, "long_tail")
    caging = reward_utils.hamacher_product(caging_y, float(caging_xz))

    closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
    gripping = reward_utils.hamacher_product(caging, closed if caging > 0.97 else 0.0)
    if high_density:
        return (gripping + caging) / 2
    if medium_density:
        margin = abs(norm(self.obj_init_pos - self.init_tcp) - object_reach_radius)
        reach = _tolerance(norm(obj_pos - tcp), (0, object_reach_radius), margin, "long_tail")
        return (gripping + float(reach)) / 2
    return gripping


_REWARDS = SimpleNamespace(**vars(reward_utils))
_REWARDS.tolerance = _tolerance
REPLACED = {"np": _NUMPY, "reward_utils": _REWARDS, "tolerance": _tolerance, "Rotation": Quaternion}
