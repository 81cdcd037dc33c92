"""A few frames of a few episodes of two tasks, for the drawing of the coupling between them.

Beside the record of the transfer: ``clips.npz`` with ``source/<episode>`` and ``target/<episode>``, each some
frames (F, H, W, 3), and ``clips.json`` with the source's name and, where frames are missing, the reason.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from robopref.alignment.record import TransferRecord
from robopref.alignment.strata import strata_of
from robopref.data.store import TrajectoryStore
from robopref.errors import DataError
from robopref.files import replacing, write_json
from robopref.methods.phases.lab import Lab, file_content
from robopref.training.filming import film_clips

MOMENTS, PIXELS = 2, 144

log = logging.getLogger(__name__)


def film_coupling(
    lab: Lab, sources: Mapping[str, TrajectoryStore], target: TrajectoryStore, view: dict[str, Any]
) -> None:
    """Film one episode of each group of the first source and of the target (see :mod:`~.alignment.strata`).

    No number depends on it: where nothing can be drawn, the run goes on and its drawing has no frames.
    """
    folder = lab.run.directory / "alignment"
    name, store = next(iter(sources.items()))
    settings = {
        "alignment": file_content(folder / "arrays.npz"),
        "source": store.fingerprint(),
        "target": target.fingerprint(),
        "view": view,
    }

    def work() -> dict[str, Any]:
        examples = _examples(TransferRecord.load(folder), name)
        sides = [(store, examples[0]), (target, examples[1])]
        clips = film_clips(sides, view=view, moments=MOMENTS, pixels=PIXELS, workers=lab.hardware.workers)
        missing = list(dict.fromkeys(clip.missing for clip in clips if clip.missing is not None))
        for reason in missing:
            log.warning("The drawing of the coupling has frames missing: %s", reason)
        frames = {
            f"{side}/{episode}": film
            for side, clip in zip(("source", "target"), clips, strict=True)
            for episode, film in clip.frames.items()
        }
        with replacing(folder / "clips.npz") as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **frames)
        write_json(folder / "clips.json", {"source": name, "missing": missing})
        return {"episodes": len(frames), "missing": missing}

    lab.run.phase("film-coupling", settings, work)


def _examples(record: TransferRecord, source: str) -> tuple[list[int], list[int]]:
    plans = [p for key, p in record.couplings.items() if key == source or key.startswith(f"{source}/")]
    if not plans:
        raise DataError(f"The transfer record holds no coupling of the source '{source}'.")
    known = record.labels if record.true_labels is None else record.true_labels
    return strata_of(plans, record.source_labels[source], known).examples
