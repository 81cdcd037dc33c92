"""Meshes with no more detail than a small frame can show: in software, triangles are the time of a frame.

Vertices of one cell of a cubic grid become one of them, and triangles that lose their area go (vertex
clustering, Rossignac & Borrel 1993). No vertex moves by more than the diagonal of a cell. Only what is drawn
changes: the simulator's own model, with its contacts, stays as it is.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import copy
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    import mujoco


def drawn_at(model: "mujoco.MjModel", detail_m: float) -> "mujoco.MjModel":
    """Return a model to upload for drawing, with coarser meshes; the model itself at 0.

    Args:
        model: As it is simulated.
        detail_m: Side of a cell in metres.
    """
    if not detail_m:
        return model
    coarse = copy.copy(model)
    for mesh in range(model.nmesh):
        first, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        vertex = model.mesh_vertadr[mesh]
        vertices = model.mesh_vert[vertex : vertex + model.mesh_vertnum[mesh]]
        faces, kept = clustered(vertices, model.mesh_face[first : first + count], detail_m)
        end = first + len(faces)
        coarse.mesh_face[first:end] = faces
        for of_corners in ("mesh_facenormal", "mesh_facetexcoord"):
            getattr(coarse, of_corners)[first:end] = getattr(model, of_corners)[first : first + count][kept]
        coarse.mesh_facenum[mesh] = len(faces)
    return coarse


def clustered(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], cell: float
) -> tuple[Int[np.ndarray, "K 3"], Bool[np.ndarray, " F"]]:
    """Let the vertices of each cell be one; returns the triangles that are left, and which those are."""
    cells = np.floor(vertices / cell).astype(np.int64)
    _, first, which = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    found = first[which.ravel()[faces]]
    a, b, c = found.T
    kept = (a != b) & (b != c) & (a != c)
    return found[kept].astype(faces.dtype), kept
