"""Coarser meshes in frames: what is drawn changes a little, what happens not at all."""

import numpy as np
import pytest

from robopref.envs.detail import clustered, drawn_at
from robopref.envs.metaworld.environment import MetaWorldEnv
from robopref.envs.rendering import gl_backend

can_draw = pytest.mark.skipif(gl_backend().name is None, reason="no OpenGL back end works here")


def test_vertices_of_a_cell_become_one_and_flat_triangles_go():
    """A square of two triangles and a speck at its corner, in cells of 1 m."""
    vertices = np.array([[0.1, 0, 0], [2.1, 0, 0], [2.1, 2, 0], [0.1, 2, 0], [0.2, 0.1, 0]])
    faces = np.array([[0, 1, 2], [4, 2, 3], [0, 4, 1]], np.int32)
    left, kept = clustered(vertices, faces, 1.0)
    assert left.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert kept.tolist() == [True, True, False]
    assert left.dtype == faces.dtype


def test_no_corner_moves_by_more_than_the_diagonal_of_a_cell():
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(300, 3))
    faces = rng.integers(0, 300, (500, 3))
    left, kept = clustered(vertices, faces, 0.2)
    assert 0 < kept.sum() < 500
    moved = np.linalg.norm(vertices[left] - vertices[faces[kept]], axis=-1)
    assert 0 < moved.max() <= 0.2 * 3**0.5


def test_the_simulators_own_model_stays_as_it_is():
    env = MetaWorldEnv("reach")
    env.reset(seed=0)
    model, _ = env.drawable()
    before = {name: getattr(model, name).copy() for name in ("mesh_face", "mesh_facenum", "mesh_vert")}
    coarse = drawn_at(model, 0.01)
    assert coarse.mesh_facenum.sum() < 0.3 * model.mesh_facenum.sum()
    for name, values in before.items():
        assert np.array_equal(getattr(model, name), values)
    assert drawn_at(model, 0.0) is model


@can_draw
def test_a_centimetre_of_detail_changes_few_pixels_and_nothing_that_happens():
    ends, frames = [], []
    for detail in (0.0, 0.01):
        env = MetaWorldEnv("button-press", render_mode="rgb_array", width=84, height=84, detail_m=detail)
        env.reset(seed=0)
        for _ in range(10):
            env.step(np.array([0.2, 1.0, -0.5, 0.0]))
        frames.append(env.render().astype(int))
        ends.append(env.state_hash())
        env.close()
    assert ends[0] == ends[1]
    changed = abs(frames[0] - frames[1]).max(-1) > 20
    assert 0 < changed.mean() < 0.02


@pytest.mark.parametrize("detail", [-0.01, float("nan"), float("inf")])
def test_a_detail_that_is_no_length_is_refused_when_the_environment_is_made(detail):
    with pytest.raises(ValueError, match="detail_m must be a length in metres, 0 or more, got"):
        MetaWorldEnv("reach", detail_m=detail)
