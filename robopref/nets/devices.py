"""Which device a name means."""

import re

import torch

from robopref.errors import ConfigError, DeviceError, unknown_name


def resolve_device(device: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that is there.

    Raises:
        ConfigError: The name is none of these.
        DeviceError: A GPU was asked for by name, and there is none or too few.
    """
    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d+)", device)
    if match is None:
        raise ConfigError(unknown_name("device", device, ("auto", "cpu", "cuda", "cuda:<number>")))
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise DeviceError(
            f"device={device} was asked for, but PyTorch {torch.__version__} ({built}) sees no CUDA GPU. "
            "Use device=cpu or device=auto; or, if this machine has a GPU, check that nvidia-smi lists it, "
            "that CUDA_VISIBLE_DEVICES does not hide it, and that the driver is new enough for this PyTorch."
        )
    index = int(match.group(2) or 0)
    count = torch.cuda.device_count()
    if index >= count:
        names = ", ".join(f"cuda:{i}" for i in range(count))
        raise DeviceError(
            f"device={device} was asked for, but PyTorch sees {count} CUDA GPU(s): use {names}."
        )
    return torch.device("cuda", index)
