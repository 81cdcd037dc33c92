"""``robopref doctor``: what is here, what is missing, and what would cure it."""

import dataclasses
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from robopref.errors import ConfigError

REQUIRED = (
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "metaworld",
    "robomimic",
    "POT",
    "hydra-core",
    "lightning-fabric",
    "wandb",
)
EXTRAS = {
    "fastapi": "label",
    "hydra-submitit-launcher": "slurm",
    "minari": "interchange",
    "onnxruntime": "deploy",
    "onnxscript": "export",
    "robosuite": "robosuite",
}
WARP = "in an environment of its own, without Meta-World: uv sync --extra gpu --no-default-groups"
STATES = {"ok": "[green]ok[/]", "optional": "[yellow]optional[/]", "missing": "[red]missing[/]"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's table; ``state`` is ok, optional (works without it) or missing."""

    what: str
    found: str
    state: str = "ok"
    cure: str = ""


def doctor(arguments: list[str]) -> int:
    """Print the findings; return 1 if something that robopref cannot do without is missing."""
    if arguments:
        raise ConfigError(f"doctor takes no options, got {' '.join(arguments)}")
    findings = list(examine())
    table = Table("what", "found", "", "cure", box=None, pad_edge=False)
    for f in findings:
        table.add_row(f.what, f.found, STATES[f.state], f.cure)
    Console(highlight=False).print(table)
    return int(any(f.state == "missing" for f in findings))


def examine() -> Iterator[Finding]:
    """Look at the machine, one finding after the other."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("robopref", metadata.version("robopref"))
    for name in REQUIRED:
        yield package(name, "missing", "pip install 'robopref[lab]'")
    for name, extra in EXTRAS.items():
        yield package(name, "optional", f"pip install 'robopref[{extra}]'")
    yield package("mujoco-warp", "optional", WARP)
    yield gpu()
    yield rendering()
    yield video()
    yield weights_and_biases()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    enough = free > 1
    yield Finding("disk", f"{free:.0f} GiB free here", *(("ok",) if enough else ("missing", "free 1 GiB")))


def package(name: str, otherwise: str, cure: str) -> Finding:
    """Say which version of a package is installed."""
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed", otherwise, cure)


def gpu() -> Finding:
    """Say which GPU torch sees, and if none, why."""
    try:
        import torch
    except ImportError:
        return Finding("GPU", "unknown without torch", "optional")
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("GPU", f"{torch.cuda.get_device_name()}, {memory:.0f} GiB, CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        return Finding("GPU", "this torch is a CPU build", "optional", "install a CUDA build of torch")
    return Finding("GPU", "none visible to torch", "optional", "check nvidia-smi and CUDA_VISIBLE_DEVICES")


def rendering() -> Finding:
    """Say which OpenGL back end draws frames."""
    # by name, since the framework and the simulators do not import each other
    backend, reason = importlib.import_module("robopref.envs.rendering").gl_backend()
    if backend is None:
        return Finding("rendering", reason, "optional", "apt-get install libegl1 libgl1 (or set MUJOCO_GL)")
    return Finding("rendering", f"{backend} ({reason})" if reason else backend)


def video() -> Finding:
    """Say which ffmpeg writes videos."""
    try:
        import imageio_ffmpeg

        return Finding("video", f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}")
    except (ImportError, RuntimeError) as error:
        return Finding("video", str(error).splitlines()[0], "missing", "pip install imageio-ffmpeg")


def weights_and_biases() -> Finding:
    """Say whether wandb=auto would go online."""
    if os.environ.get("WANDB_API_KEY") or "api.wandb.ai" in _netrc():
        return Finding("wandb", "a key is configured: wandb.mode=auto goes online")
    return Finding("wandb", "no key: wandb.mode=auto stays offline", "optional", "wandb login")


def _netrc() -> str:
    path = Path(os.environ.get("NETRC", Path.home() / (".netrc" if sys.platform != "win32" else "_netrc")))
    return path.read_text() if path.exists() else ""
