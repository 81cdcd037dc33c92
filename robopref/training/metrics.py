"""What a run measured: one JSON line at a time on disk, always, and in Weights & Biases if wished.

``log.jsonl`` is the record: a resumed training cuts it back to its checkpoint, so no step appears twice.
Weights & Biases cannot be cut back; after a kill its curves may show the last steps before the kill twice,
with equal values.
"""

import json
import math
import netrc
import os
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args
from urllib.parse import urlparse

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.files import write_text

LOG_NAME = "log.jsonl"
WandbMode = Literal["auto", "online", "offline", "disabled"]


class RunLog:
    """The log of one run directory; a context manager.

    Args:
        directory: Holds ``log.jsonl`` and, if used, ``wandb/``; created where it is missing.
        wandb_mode: ``online``, ``offline`` (kept in the folder; ``wandb sync`` sends it later), ``disabled``
            (wandb is not even imported), or ``auto``: online if a key is configured, otherwise offline.
        project, name: How Weights & Biases calls the run.
        config: Shown there beside the run.

    Raises:
        ConfigError: Unknown mode.
        DataError: The log cannot be written, or is not a log.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        wandb_mode: str = "auto",
        project: str = "robopref",
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if wandb_mode not in get_args(WandbMode):
            raise ConfigError(unknown_name("wandb mode", wandb_mode, get_args(WandbMode)))
        self.directory = Path(directory)
        self.path = self.directory / LOG_NAME
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._drop_torn_line()
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(f"Cannot write {self.path}: {error.strerror or error}.") from error
        self._phases: set[str] = set()
        self._wandb: Any = None
        if wandb_mode != "disabled":
            self._wandb = _start_wandb(self.directory, wandb_mode, project, name, dict(config or {}))

    def log(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Append ``{"time", "phase", "step", **values}``; a value that is not finite is left out.

        Raises:
            DataError: The disk is full.
        """
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        line = {"time": round(time.time(), 3), "phase": phase, "step": step, **finite}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise DataError(f"Cannot write {self.path}: {error.strerror or error}.") from error
        if self._wandb is not None:
            if phase not in self._phases:
                self._phases.add(phase)
                self._wandb.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
            self._wandb.log({f"{phase}/step": step} | {f"{phase}/{k}": v for k, v in finite.items()})

    def sync(self) -> None:
        """Wait until the lines are on the disk, so that a checkpoint never outlives the lines before it."""
        os.fsync(self._file.fileno())

    def rewind(self, phase: str, after: int) -> None:
        """Drop the lines of ``phase`` with a step greater than ``after``: they will be written again."""
        self._file.flush()
        lines = read_log(self.path)
        kept = [line for line in lines if not (line.get("phase") == phase and line.get("step", 0) > after)]
        if len(kept) == len(lines):
            return
        self._file.close()
        try:
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        finally:
            self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file, and tell Weights & Biases that the run is over."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        """Cut off the half line that a killed process may have left at the end."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a ``log.jsonl``; a half line at its end (being written, or the writer was killed) is left out.

    Raises:
        DataError: Another line is not JSON.
    """
    text = Path(path).read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}, is not JSON ({error.msg})") from error
    return lines


def _start_wandb(directory: Path, mode: str, project: str, name: str | None, config: dict[str, Any]) -> Any:
    """Start a run, or continue the one that this directory started before."""
    online = mode == "online" or (mode == "auto" and _auto_mode() == "online")
    if mode == "auto" and _auto_mode() == "disabled":
        return None
    try:
        import wandb
        import wandb.errors
    except ImportError as error:
        raise ConfigError(
            f"wandb.mode={mode} needs the package wandb, which cannot be imported ({error}). "
            "Install it, or use wandb.mode=disabled."
        ) from error

    identity = directory / "wandb-run-id.txt"
    if not identity.exists():
        identity.write_text(uuid.uuid4().hex[:12] + "\n")

    def start(online: bool) -> Any:
        return wandb.init(
            project=project,
            name=name,
            config=config,
            dir=str(directory),
            id=identity.read_text().strip(),
            resume="allow",
            mode="online" if online else "offline",
            settings=wandb.Settings(silent=True, console="off"),
        )

    try:
        return start(online)
    except wandb.errors.Error as error:
        if mode == "online":
            raise ConfigError(
                f"Weights & Biases did not start: {error} "
                "Log in with 'wandb login', or use wandb.mode=offline."
            ) from error
        warnings.warn(
            f"Weights & Biases cannot be reached, this run is logged offline: {error}", stacklevel=3
        )
        return start(online=False)


def _auto_mode() -> str:
    """Follow WANDB_MODE where it is set, as wandb does; otherwise online exactly if there is a key."""
    wished = os.environ.get("WANDB_MODE", "")
    if wished in ("online", "offline", "disabled"):
        return wished
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return "online" if netrc.netrc(os.environ.get("NETRC")).authenticators(host) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"
