"""``robopref data``: what it prints, draws and refuses."""

from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from robopref.cli import main
from robopref.data import Provenance, Trajectory, TrajectoryStore
from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Four episodes of two behaviours with known returns, and four labels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    with TrajectoryStore.create(
        tmp_path / "here",
        observation_size=2,
        action_size=1,
        keypoints=("hand",),
        control_hz=10.0,
        metadata={},
    ) as made:
        for index, behaviour in enumerate(("expert", "random", "expert", "random")):
            steps = 2 + index
            made.append(
                Trajectory(
                    observations=np.zeros((steps + 1, 2)),
                    actions=np.zeros((steps, 1)),
                    rewards=np.full(steps, 10.0 / steps if behaviour == "expert" else 0.0),
                    successes=np.arange(steps) == (1 if index == 0 else -1),
                    keypoints={"hand": np.cumsum(np.ones((steps + 1, 3)), axis=0)},
                    terminated=False,
                    provenance=Provenance("open", "env-v0", index, behaviour, {}, "", {}),
                )
            )
        with LabelStore.beside(made) as labels:
            answers = [
                ("human", "ann", "a"),
                ("human", "ann", "skip"),
                ("human", "bob", "a"),
                ("cost", "c", 0.3),
            ]
            given = [
                Judgement(0, 0, 1, 1, 0, 1, a, s, who, created_at=datetime.now(UTC)) for s, who, a in answers
            ]  # pyright: ignore[reportArgumentType]
            labels.add(given, data_fingerprint=made.fingerprint(), episodes=4)
    return tmp_path / "here"


def said(capfd, *arguments):
    code = main(["data", *map(str, arguments)])
    out, err = capfd.readouterr()
    return code, out + err


def row(text, start):
    return next(line.split() for line in text.splitlines() if line.startswith(start))


def test_show_counts_episodes_returns_successes_and_labels(store, capfd):
    code, text = said(capfd, "show", store)
    assert code == 0
    assert row(text, "episodes")[1:] == ["4,", "of", "2", "to", "5", "actions;", "14", "in", "all"]
    assert row(text, "expert") == ["expert", "2", "2", "to", "4", "10.0", "±", "0.0", "10.0", "10.0", "50%"]
    assert row(text, "random") == ["random", "2", "3", "to", "5", "0.0", "±", "0.0", "0.0", "0.0", "0%"]
    assert text.index("expert") < text.index("random")  # the better first
    #            source, annotator, all, a, b, equal, soft, skip
    assert row(text, "human      ann") == ["human", "ann", "2", "1", "0", "0", "0", "1"]
    assert row(text, "cost") == ["cost", "c", "1", "0", "0", "0", "1", "0"]


def test_the_answers_of_each_annotator_add_up(store, capfd):
    with TrajectoryStore.open(store) as made, LabelStore.beside(made) as labels:
        thumbs = [Judgement(0, 0, 1, None, None, None, a, "human", "eve") for a in ("up", "up", "down")]
        clips = ((0, 0, 1), (1, 0, 1))
        step = Judgement(*clips[0], *clips[1], "rest", "human", "eve", list_uid="l", list_members=clips)
        labels.add([*thumbs, step], data_fingerprint=made.fingerprint(), episodes=4)
    _, text = said(capfd, "show", store)
    assert row(text, "labels by")[-3:] == ["up", "down", "rest"]
    #            source, annotator, all, a, b, equal, soft, skip, up, down, rest
    assert row(text, "human      eve") == ["human", "eve", "4", "0", "0", "0", "0", "0", "2", "1", "1"]


def test_show_reads_other_formats_too(store, capfd):
    said(capfd, "convert", f"from={store}", "to=x.hdf5")
    code, text = said(capfd, "show", "x.hdf5")
    assert code == 0
    assert row(text, "human      bob")[2] == "1"
    assert row(text, "expert")[1] == "2"


def test_show_draws_returns_and_keypoints(store, tmp_path, capfd):
    code, text = said(capfd, "show", store, "out=pictures/p.png")
    assert code == 0
    assert "Picture: pictures/p.png" in text
    pixels = np.asarray(Image.open(tmp_path / "pictures/p.png").convert("RGB"))
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 900
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(("there", "kind"), [("x.hdf5", "robomimic"), ("x", "minari"), ("x", "lerobot")])
def test_convert_takes_relative_places_and_says_what_it_did(store, capfd, there, kind):
    if kind == "minari":
        pytest.importorskip("minari")
    code, text = said(capfd, "convert", "from=here", f"to={there}", f"format={kind}")
    assert code == 0, text
    assert "4 episodes, 14 steps, 4 labels" in " ".join(text.split())
    code, text = said(capfd, "convert", f"from={there}", "to=back", "labels=false")
    assert "4 episodes, 14 steps, 0 labels" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["shw"], "Did you mean 'show'?"),
        (["show"], "needs one data set, got none"),
        (["show", "nowhere"], "nowhere does not exist"),
        (["show", "here", "ot=x.png"], "Did you mean 'out'?"),
        (["show", "here", "out=x.jpg"], "ending in .png"),
        (["convert", "from=here"], "needs from=<data> and to=<new place>"),
        (["convert", "from=here", "to="], "to= needs a value"),
        (["convert", "from=here", "to=there", "lossy=yes", "format=minari"], "lossy must be true or false"),
        (["convert", "from=here", "to=there", "fromat=minari"], "Did you mean 'format'?"),
        (["convert", "from=here", "to=there"], "Say format=lerobot"),
        (["convert", "from=here", "to=here", "format=minari"], "exists already"),
    ],
)
def test_bad_input_gets_a_sentence(store, capfd, arguments, sentence):
    code, text = said(capfd, *arguments)
    assert code == 1
    assert sentence in text
    assert "Traceback" not in text


def test_without_a_command_the_usage_is_shown(capfd):
    code, text = said(capfd)
    assert code == 2
    assert "robopref data convert from=" in text
