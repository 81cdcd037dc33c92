"""What happened and what was said of it: trajectories on disk, preferences, labels, teachers, queries."""

from robopref.data.preferences import Preferences, Segments
from robopref.data.store import TrajectoryStore
from robopref.data.teachers import ScriptedTeacher
from robopref.data.trajectory import Provenance, SegmentBatch, Trajectory

__all__ = [
    "Preferences",
    "Provenance",
    "ScriptedTeacher",
    "SegmentBatch",
    "Segments",
    "Trajectory",
    "TrajectoryStore",
]
