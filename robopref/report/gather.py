"""Read run directories. A missing phase becomes a sentence; a damaged file becomes a DataError."""

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopref.alignment.record import said_of_inversion
from robopref.errors import DataError
from robopref.files import read_json
from robopref.report.runs import (
    Alignment,
    Curve,
    Evaluation,
    Matches,
    Phase,
    Reliability,
    RewardMetrics,
    Rollout,
    Run,
)

SEARCH_DEPTH = 4


def find_runs(paths: Sequence[Path | str]) -> tuple[list[Path], list[str]]:
    """Return the run directories at or below ``paths``, and a sentence for each path without any.

    Raises:
        DataError: No path leads to a run.
    """
    found, skipped = [], []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"There is no {path}; give the directory of a run, which holds run.json.")
        runs = [path] if (path / "run.json").exists() else sorted(_below(path, SEARCH_DEPTH))
        found += [run for run in runs if run not in found]
        if not runs:
            skipped.append(f"{path} is left out: neither it nor a folder below it holds run.json.")
    if not found:
        names = ", ".join(map(str, paths)) or "no path"
        raise DataError(f"No run was found in {names}: a run directory holds run.json.")
    return found, skipped


def _below(path: Path, depth: int) -> list[Path]:
    if depth == 0 or not path.is_dir():
        return []
    found = []
    for folder in (f for f in sorted(path.iterdir()) if f.is_dir()):
        found += [folder] if (folder / "run.json").exists() else _below(folder, depth - 1)
    return found


def read_run(directory: Path | str) -> Run:
    """Read one run directory.

    Raises:
        DataError: ``run.json`` is missing, or a file is truncated, foreign or contradicts itself.
    """
    directory = Path(directory)
    if not (directory / "run.json").exists():
        raise DataError(f"{directory} is not a run directory: it holds no run.json.")
    header = _mapping(directory / "run.json")
    notes: list[str] = []
    config, config_text = _read_config(directory / "config.yaml", notes)
    status = str(header.get("status", "unknown"))
    if status not in ("complete", "completed", "finished", "done"):
        notes.append(f"The run's status is '{status}': what follows is what it had written so far.")
    notes += _collapsed(directory)
    seed = header.get("seed")
    return Run(
        directory=directory,
        name=str(header.get("name", directory.name)),
        method=str(header.get("method", "unknown")),
        task=str(header.get("task", "unknown")),
        seed=int(seed) if isinstance(seed, int | float) else None,
        command=str(header.get("command", "")),
        status=status,
        started=str(header.get("started", "")),
        machine=_dict(header.get("machine")),
        versions=_dict(header.get("versions")),
        phases=_phases(header, directory / "run.json", notes),
        config=config,
        config_text=config_text,
        curves=read_log(directory / "log.jsonl", notes),
        alignment=_read_alignment(directory / "alignment", notes),
        reward=_read_reward(directory / "reward", notes),
        matches=_read_matches(directory / "reward" / "matches.npz"),
        reward_kind=_kind(directory / "reward", config.get("reward")),
        policy_kind=_policy_kind(directory / "policy", config.get("policy")),
        evaluations=_read_evaluations(directory / "evaluation", notes),
        rollouts=_read_rollouts(directory / "evaluation", notes),
        notes=tuple(notes),
    )


# Files -------------------------------------------------------------------------------------------------


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} should hold a JSON object, it holds a {type(content).__name__}.")
    return content


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file; nothing in it is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, KeyError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is truncated or not an .npz file of plain arrays ({error}).") from error


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(content: dict[str, Any], key: str) -> float | None:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _read_config(path: Path, notes: list[str]) -> tuple[dict[str, Any], str]:
    import yaml

    if not path.exists():
        notes.append("No config.yaml: the settings of this run are not known.")
        return {}, ""
    try:
        text = path.read_text(encoding="utf-8")
        return _dict(yaml.safe_load(text)), text
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not YAML ({error}).") from error


def _phases(header: dict[str, Any], path: Path, notes: list[str]) -> tuple[Phase, ...]:
    phases = []
    for entry in header.get("phases") or []:
        seconds = _number(_dict(entry), "seconds")
        if seconds is None or "name" not in entry:
            raise DataError(f"{path}: a phase needs a name and a finite number of seconds, got {entry}.")
        memory = _number(entry, "peak_memory_mib")
        phases.append(Phase(str(entry["name"]), seconds, memory, bool(entry.get("skipped", False))))
    if not phases:
        notes.append("run.json lists no finished phase: time and memory are not known.")
    return tuple(phases)


def _collapsed(directory: Path) -> list[str]:
    """A sentence for each policy of a run that learned from preferences and can no longer act."""
    sentences = []
    for path in sorted(directory.glob("*/metrics.json")):
        gate = _dict(_mapping(path).get("gate"))
        if gate.get("collapsed") is True:
            sentences.append(
                f"COLLAPSED: the policy in {path.parent.name}/ must not act by itself, whatever its loss and "
                f"accuracy say: {gate.get('reason', 'the gate gave no reason')}."
            )
    return sentences


def _policy_kind(folder: Path, config: Any) -> str | None:
    """Name of a policy, with the share of the episodes that it clones if that is not all."""
    kind = _kind(folder, config)
    share = config.get("top_fraction", 1.0) if isinstance(config, dict) else 1.0
    return kind if share == 1.0 else f"{kind} of the best {share:.0%}"


def _kind(folder: Path, config: Any) -> str | None:
    """Name of a component: the kind in its checkpoint, else the last part of its ``_target_``.

    The objective stands behind it in parentheses, unless it is a reward's usual one (Bradley-Terry, ``dpo``).
    """
    config = _dict(config)
    path = folder / "config.json"
    kind = _mapping(path).get("kind") if path.exists() else None
    kind = kind or str(config.get("_target_", "")).rsplit(".", 1)[-1] or None
    objective = _dict(config.get("objective")).get("name", "dpo")
    usual = objective == "dpo" and kind != "preference"
    return kind if kind is None or usual else f"{kind} ({objective})"


# Phases ------------------------------------------------------------------------------------------------


def read_log(path: Path, notes: list[str]) -> tuple[Curve, ...]:
    """Read ``log.jsonl``; where a resumed run logged a step twice, the later value counts.

    Raises:
        DataError: Not one line of the file is a JSON object.
    """
    if not path.exists():
        notes.append("No log.jsonl: there are no learning curves.")
        return ()
    series: dict[tuple[str, str], dict[float, float]] = {}
    broken = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            phase, step = str(entry["phase"]), float(entry["step"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            broken.append(number)
            continue
        for metric, value in entry.items():
            if metric in ("time", "phase", "step") or isinstance(value, bool):
                continue
            if isinstance(value, int | float):
                series.setdefault((phase, metric), {})[step] = float(value)
    if lines and len(broken) == len(lines):
        raise DataError(f"{path} holds no line of the form {{'phase': ..., 'step': ...}}.")
    if broken:
        notes.append(
            f"{len(broken)} of {len(lines)} lines of log.jsonl cannot be read (the first is line "
            f"{broken[0]}; a killed run leaves such a line) and are left out of the curves."
        )
    curves = []
    for (phase, metric), points in series.items():
        steps = np.array(sorted(points))
        curves.append(Curve(phase, metric, steps, np.array([points[s] for s in steps])))
    return tuple(curves)


def _read_alignment(folder: Path, notes: list[str]) -> Alignment | None:
    if not (folder / "record.json").exists():
        notes.append("No alignment/record.json: no labels were transferred, so there is no label matrix.")
        return None
    record = _mapping(folder / "record.json")
    if not (folder / "arrays.npz").exists():
        raise DataError(f"{folder} holds record.json without arrays.npz: the record is incomplete.")
    arrays = read_arrays(folder / "arrays.npz")
    if "labels" not in arrays:
        raise DataError(f"{folder / 'arrays.npz'} has no 'labels'; it holds {', '.join(sorted(arrays))}.")
    square = (len(arrays["labels"]),) * 2
    for name in ("labels", "confidence", "true_labels"):
        if name in arrays and arrays[name].shape != square:
            raise DataError(f"{folder / 'arrays.npz'}: {name} has shape {arrays[name].shape}, not {square}.")
    for name, plan in _under(arrays, "coupling/").items():
        if plan.ndim != 2:
            raise DataError(f"{folder / 'arrays.npz'}: coupling/{name} has shape {plan.shape}, not two axes.")
    truth, settings = arrays.get("true_labels"), _dict(record.get("settings"))
    for name, reason in _dict(settings.get("controls_left_out")).items():
        notes.append(f"The control '{name}' was left out: {reason}")
    try:
        inversion = said_of_inversion(settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{folder / 'record.json'} does not hold what was found of an inversion ({error!r})."
        ) from error
    if inversion is not None and settings["at_risk"]:
        notes.append(inversion)
    clips, missing = _read_clips(folder)
    accuracy = _dict(record.get("accuracy"))
    if not accuracy:
        notes.append("The transfer record holds no accuracy: the target's true order is not known.")
    elif truth is None:
        notes.append("The transfer record holds no true labels: the matrices are sorted by the labels.")
    return Alignment(
        labels=_real(arrays["labels"]),
        confidence=_real(arrays["confidence"]) if "confidence" in arrays else None,
        true_labels=_real(truth) if truth is not None else None,
        couplings=_under(arrays, "coupling/"),
        source_labels=_under(arrays, "source_labels/"),
        accuracy={str(k): v for k in accuracy if (v := _number(accuracy, k)) is not None},
        sources=tuple(map(str, _dict(settings.get("sources")))),
        clips=clips,
        clips_missing=missing,
        inversion=inversion,
    )


def _read_clips(folder: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return frames of some episodes that were coupled, and why some are missing."""
    if not (folder / "clips.json").exists():
        return {}, ("this run filmed none.",)
    missing = _mapping(folder / "clips.json").get("missing")
    clips = read_arrays(folder / "clips.npz")
    for name, film in clips.items():
        if film.dtype != np.uint8 or film.ndim != 4 or film.shape[3] != 3:
            raise DataError(f"{folder / 'clips.npz'}: {name} holds {film.dtype} {film.shape}, no frames.")
    return clips, tuple(map(str, missing if isinstance(missing, list) else ()))


def _real(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.float64)


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): _real(v) for k, v in arrays.items() if k.startswith(prefix)}


def _read_reward(folder: Path, notes: list[str]) -> RewardMetrics | None:
    path = folder / "metrics.json"
    if not path.exists():
        notes.append("No reward/metrics.json: the reward's accuracy and calibration are not known.")
        return None
    content = _mapping(path)
    pairs = _number(content, "held_out_pairs")
    return RewardMetrics(
        pair_accuracy=_number(content, "pair_accuracy"),
        label_accuracy=_number(content, "label_accuracy"),
        ece=_number(content, "ece"),
        held_out_pairs=None if pairs is None else int(pairs),
        reliability=_reliability(content.get("reliability"), path, notes),
    )


def _read_matches(path: Path) -> Matches | None:
    if not path.exists():  # only rewards of frames have it
        return None
    arrays = read_arrays(path)
    sides = [(side, stage) for side in ("preferred", "disliked") for stage in ("before", "after")]
    try:
        found = Matches(
            episodes=(int(arrays["episodes"][0]), int(arrays["episodes"][1])),
            plans={key: arrays[f"plan/{'/'.join(key)}"] for key in sides},
            distances={key: float(arrays[f"distance/{'/'.join(key)}"]) for key in sides},
            spaces={stage: arrays[f"space/{stage}"] for stage in ("before", "after")},
            won=arrays["won"],
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not hold what alignment did to a pair of episodes ({error})."
        ) from error
    shapes = [plan.ndim for plan in found.plans.values()], [x.shape for x in found.spaces.values()]
    if shapes != ([2] * 4, [(len(found.won), 2)] * 2):
        raise DataError(f"{path}: couplings are (F, G) and spaces (n, 2), got {shapes}.")
    return found


def _reliability(content: Any, path: Path, notes: list[str]) -> Reliability | None:
    if not content:
        notes.append("reward/metrics.json holds no reliability curve.")
        return None
    try:
        rows = [content[key] for key in ("confidence", "accuracy", "count")]
        columns = [np.array([np.nan if v is None else v for v in row], dtype=np.float64) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: reliability needs lists confidence, accuracy, count ({error}).") from error
    if len({len(column) for column in columns}) != 1:
        raise DataError(f"{path}: the lists of reliability differ in length: {[len(c) for c in columns]}.")
    return Reliability(*columns)


def _read_evaluations(folder: Path, notes: list[str]) -> tuple[Evaluation, ...]:
    files = [p for p in sorted(folder.glob("*.json")) if not p.name.startswith("rollout-")]
    if not files:
        notes.append("No evaluation/<policy>.json: no policy of this run was evaluated.")
    return tuple(_read_evaluation(path) for path in files)


def _read_evaluation(path: Path) -> Evaluation:
    content = _mapping(path)
    columns: dict[str, list[Any]] = {}
    for key in ("seeds", "successes", "returns"):
        values = content.get(key)
        if not isinstance(values, list):
            raise DataError(f"{path} is not an evaluation: it has no list '{key}'.")
        columns[key] = values
    counts = {key: len(values) for key, values in columns.items()}
    if len(set(counts.values())) != 1 or not columns["seeds"]:
        raise DataError(f"{path}: one entry per episode is needed in each list, got {counts}.")
    try:
        evaluation = Evaluation(
            policy=str(content.get("policy", path.stem)),
            seeds=tuple(int(s) for s in columns["seeds"]),
            successes=tuple(bool(s) for s in columns["successes"]),
            returns=tuple(float(r) for r in columns["returns"]),
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} holds an entry that is no number ({error}).") from error
    if not np.isfinite(evaluation.returns).all():
        raise DataError(f"{path} holds a return that is not finite.")
    stated = _number(_dict(content.get("summary")), "successes")
    if stated is not None and stated != evaluation.wins:
        raise DataError(
            f"{path} contradicts itself: summary says {stated:g} successes, the episodes {evaluation.wins}."
        )
    return evaluation


def _read_rollouts(folder: Path, notes: list[str]) -> tuple[Rollout, ...]:
    rollouts = tuple(_read_rollout(path, notes) for path in sorted(folder.glob("rollout-*.npz")))
    if not rollouts:
        notes.append("No evaluation/rollout-<k>.npz: no rollout was recorded.")
    return rollouts


def _read_rollout(path: Path, notes: list[str]) -> Rollout:
    arrays = read_arrays(path)
    if "rewards" not in arrays:
        raise DataError(f"{path} is not a rollout: it has no 'rewards'; it holds {', '.join(arrays)}.")
    side = path.with_suffix(".json")
    about = _mapping(side) if side.exists() else {}
    steps = np.size(arrays["rewards"])
    for name in ("rewards", "predicted_rewards", "predicted_deviation", "successes"):
        if name in arrays and arrays[name].shape != (steps,):
            raise DataError(f"{path}: {name} has shape {arrays[name].shape}, the episode has {steps} steps.")
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise DataError(f"{path}: {name} holds NaN or an infinite number.")
    successes = np.asarray(arrays.get("successes", np.zeros(steps)), dtype=bool)
    video = path.with_suffix(".mp4")
    if not video.exists():
        notes.append(f"{path.name} has no film ({about.get('reason') or 'no reason was written'}).")
    index = path.stem.removeprefix("rollout-")
    seed = _number(about, "seed")
    return Rollout(
        index=int(index) if index.isdigit() else 0,
        policy=str(about.get("policy", "policy")),
        seed=None if seed is None else int(seed),
        success=bool(about.get("success", successes.any())),
        drawn_by=about.get("drawn_by"),
        reason=about.get("reason"),
        rewards=_real(arrays["rewards"]),
        predicted=_real(arrays["predicted_rewards"]) if "predicted_rewards" in arrays else None,
        deviation=_real(arrays["predicted_deviation"]) if "predicted_deviation" in arrays else None,
        successes=successes,
        video=video if video.exists() else None,
    )
