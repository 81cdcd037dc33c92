"""The drawing of a coupling: bands, bars and frames as there are, and a sentence where frames are missing."""

import numpy as np
import pytest

from robopref.alignment.transfer import labels_from_scores
from robopref.errors import DataError
from robopref.report import coupled
from robopref.report.coupled import coupled_episodes
from robopref.report.gather import read_run
from robopref.report.runs import Alignment

N = 10
RANKED = labels_from_scores(np.arange(float(N)))
GREY = np.full((2, 6, 8, 3), 99, np.uint8)


def alignment(plan, clips=None, missing=(), source_labels=RANKED):
    return Alignment(
        labels=RANKED,
        confidence=None,
        true_labels=RANKED,
        couplings={"press": plan},
        source_labels={"press": source_labels},
        accuracy={},
        sources=("press",),
        clips=clips or {},
        clips_missing=missing,
    )


def draw(plan, *options, key="k"):
    drawing = coupled_episodes(alignment(plan, *options), "open", key=key)
    assert drawing is not None
    return drawing


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the last drawing."""
    kept = []

    def keep(figure, axes, **options):
        kept.append(axes)
        return to_panel(figure, axes, **options)

    to_panel = coupled.to_panel
    monkeypatch.setattr(coupled, "to_panel", keep)
    return kept


def shift(band):
    """How far to the right of its upper end a band's lower end lies."""
    points = band.get_path().vertices
    return points[3, 0] - points[0, 0]


def shares(bands):
    """Widths at the lower end, as shares of all."""
    corners = np.array([band.get_path().vertices for band in bands])
    widths = corners[:, 4, 0] - corners[:, 3, 0]
    return widths / widths.sum()


@pytest.mark.parametrize(
    ("plan", "bands"),
    [(np.eye(N), 5), (np.eye(N)[::-1], 5), (np.ones((N, N)), 25), (np.eye(N, k=2) + np.eye(N, k=2 - N), 5)],
)
def test_there_is_a_band_for_each_two_groups_that_share_mass_and_a_bar_for_each_group(drawn, plan, bands):
    draw(plan)
    (axes,) = drawn
    assert len(axes.patches) == bands + 2 * 5
    assert len(axes.images) == 0


def test_a_band_is_as_wide_as_its_mass_and_stands_upright_where_good_goes_with_good(drawn):
    draw(np.eye(N), key="a")
    plan = np.eye(N)
    plan[0, 0] = plan[0, 9] = 0.5  # of the worst group's mass of 2, a quarter goes to the best one
    draw(plan, key="b")
    upright, moved = ([patch for patch in axes.patches if len(patch.get_path()) == 8] for axes in drawn)
    assert np.allclose([shift(band) for band in upright], 0)
    assert np.allclose(shares(upright), 0.2)
    assert np.allclose(shares(moved), [0.15, 0.05, 0.2, 0.2, 0.2, 0.2])
    assert int(np.argmax([shift(band) for band in moved])) == 1


def test_frames_are_those_of_the_middle_episode_of_each_group(drawn):
    # groups of two: the middle one is the second, episodes 1, 3, 5, 7 and 9
    clips = {f"{side}/{episode}": GREY for side in ("source", "target") for episode in range(1, N, 2)}
    drawing = draw(np.eye(N), clips)
    assert len(drawn[0].images) == 2 * 5 * len(GREY)
    assert drawing.panels[0].svg.count("<image") == 2 * 5 * len(GREY)
    assert "half-way and at its end" in drawing.caption
    assert "100% of the mass stays in its group" in drawing.caption
    words = [text.get_text() for text in drawn[0].texts]
    assert words.count("best: episode 9") == words.count("worst: episode 1") == 2


def test_a_drawing_without_frames_says_why(drawn):
    reason = "Cannot draw frames. Drawing is switched off."
    drawing = draw(np.eye(N), {}, (reason,))
    assert drawing.caption.endswith(f"Without frames: {reason}")
    assert "half-way" not in drawing.caption
    one_side = {f"source/{episode}": GREY for episode in range(1, N, 2)}
    drawing = draw(np.eye(N), one_side, (reason,))
    assert drawing.caption.endswith(f"Without frames of a side: {reason}")
    assert len(drawn[1].images) == 5 * len(GREY)


def test_nothing_is_drawn_where_the_sources_labels_are_not_kept():
    assert coupled_episodes(alignment(np.eye(N), source_labels=RANKED[:4, :4]), "open", key="k") is None


def transferred(run):
    found = read_run(run).alignment
    assert found is not None
    return found


def save(run, name, film):
    with (run / "alignment" / "clips.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: film})


def test_frames_of_a_run_are_read_and_what_are_none_is_refused(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    assert transferred(run).clips_missing == ("this run filmed none.",)
    (run / "alignment" / "clips.json").write_text('{"source": "button-press", "missing": []}')
    save(run, "target/3", GREY)
    found = transferred(run)
    assert found.clips_missing == ()
    assert (found.clips["target/3"] == GREY).all()
    save(run, "target/0", GREY.astype(float))
    with pytest.raises(DataError, match="target/0 holds float64"):
        read_run(run)
