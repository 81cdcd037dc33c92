"""People answer what an alignment asks, over HTTP, and the transfer takes their answers."""

import json
import re
import shlex
import signal

import httpx
import numpy as np
import pytest

from robopref.data import Provenance, Trajectory, TrajectoryStore
from robopref.data.label_store import LabelStore
from robopref.data.preferences import preferences_from_matrix
from robopref.labeling.clips import Library, Segment
from tests.alignment.test_auto import STEPS, source
from tests.cli.test_product import SMALL, phases, robopref
from tests.labeling.server import serving

pytestmark = pytest.mark.slow
VIEW = {"width": 64, "height": 64}
SHOWN = ("view={width: 64, height: 64}", "repeated=0", "mirrored=0")


def made(folder, seed, *, sign=1.0):
    """Write a world in which hands of some skill carry things, judged by that skill, or by its opposite."""
    world = source(seed, sign)
    segments, order = world.segments, world.labels.mean(axis=1)
    names = sorted(segments.keypoints)
    size = segments.observations.shape[-1], segments.actions.shape[-1]
    with TrajectoryStore.create(
        folder, observation_size=size[0], action_size=size[1], keypoints=names, control_hz=20.0
    ) as store:
        for episode, worth in enumerate(order):
            store.append(
                Trajectory(
                    observations=segments.observations[episode],
                    actions=np.clip(segments.actions[episode], -1, 1),
                    rewards=np.full(STEPS, worth, np.float32),
                    successes=np.zeros(STEPS, bool),
                    keypoints={name: segments.keypoints[name][episode] for name in names},
                    terminated=False,
                    provenance=Provenance(folder.name, "nowhere:world-v0", episode, "made", {}, "ab", {}),
                    frames=None,
                )
            )
    store = TrajectoryStore.open(folder)
    with LabelStore.beside(store) as labels:
        known = preferences_from_matrix(world.labels.astype(np.float32), store.lengths)
        told = {"data_fingerprint": store.fingerprint(), "episodes": len(store)}
        if sign > 0:
            labels.add_preferences(known, source="teacher", annotator="scripted", **told)
    return store


class Person:
    """Answers by the true return of the whole episodes that the page shows, known by their clips' names."""

    def __init__(self, store, name):
        library = Library(store, store.path / "clips", VIEW)
        whole = [Segment(episode, 0, int(length)) for episode, length in enumerate(store.lengths)]
        self.episodes = {library.clip(segment).path.stem: segment.episode for segment in whole}
        self.store, self.name = store, name

    def shown(self, client):
        """The question, and the episodes on the left and on the right; nothing where no question is left."""
        turn = client.get("/api/question", params={"annotator": self.name}).raise_for_status().json()
        if turn["question"] is None:
            return None, ()
        return turn["question"]["id"], tuple(self.episodes[key] for key in turn["question"]["clips"])

    def answer(self, client, choice=None):
        question, sides = self.shown(client)
        left, right = (self.store.returns[episode] for episode in sides)
        body = {"annotator": self.name, "question": question, "choice": choice or _better(left, right)}
        client.post("/api/answer", json=body).raise_for_status()
        return frozenset(sides)


def _better(left, right):
    return "equal" if left == right else "left" if left > right else "right"


def test_answers_of_two_people_put_an_inverted_transfer_right_through_a_killed_server(tmp_path):
    sources = [str(made(tmp_path / f"world{seed}", seed).path) for seed in (1, 2, 3)]
    target = made(tmp_path / "opposite", 4, sign=-1.0)
    asked = ("query=alignment", f"sources=[{','.join(sources)}]", "pairs=7", "shared=0", *SHOWN)
    people = [Person(target, name) for name in ("anna", "bert")]
    given = []
    with serving(target.path, *asked) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        given += [people[0].answer(client, choice) for choice in (None, "skip", "equal")]
        before = [person.shown(client)[1] for person in people]
        assert set(before[0]) != set(before[1])
        server.end(signal.SIGKILL)
    with serving(target.path, *asked) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert [person.shown(client)[1] for person in people] == before
        given += [people[number % 2].answer(client) for number in range(4)]
        assert [person.shown(client) for person in people] == [(None, ())] * 2
        server.end(signal.SIGINT)
        said = server.said
    assert len(set(given)) == 7

    _, *command = shlex.split(said.splitlines()[-1])  # what the server says is to be done next
    share = {}
    for name, anchors in (("blind", ["anchors=null"]), ("told", [])):
        code, said = robopref(tmp_path, *command, *anchors, f"annotator={name}", f"out={name}")
        assert code == 0, said
        record = json.loads((tmp_path / name / "phases" / "align.json").read_text())
        share[name] = record["result"]["accuracy"]["transfer"]
    assert share["blind"] < 0.1  # nothing in the episodes says what is asked for
    assert share["told"] > 0.9


def test_a_run_stops_until_people_have_answered_what_it_asks_and_goes_on_with_a_copy(tmp_path):
    words = (
        "run",
        *SMALL,
        "anchor_pairs=3",
        "anchors_from=human",
        f"data_dir={tmp_path}",
        f"out={tmp_path}/r",
    )
    code, said = robopref(tmp_path, *words)
    assert code == 1
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "waiting for people"
    (line,) = re.findall(r"robopref label data=(.*)\n", said)
    data, *options = shlex.split(line)
    target = TrajectoryStore.open(data)
    person = Person(target, "anna")
    with serving(data, *options, *SHOWN) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        asked = {person.answer(client) for _ in range(3)}
        assert person.shown(client) == (None, ())
    assert len(asked) == 3
    code, said = robopref(tmp_path, *words)
    assert code == 0, said
    record = json.loads((tmp_path / "r" / "alignment" / "record.json").read_text())
    assert record["settings"]["anchors"] == 3
    with LabelStore(f"sqlite:///{tmp_path}/r/labels/drawer-open.sqlite") as labels:
        copied = labels.judgements(source="human").values()
    assert {frozenset((each.a_episode, each.b_episode)) for each in copied} == asked
    assert {each.annotator for each in copied} == {"anna"}

    with LabelStore.beside(target) as labels:  # what is said later is another run's
        labels.retract(next(iter(labels.judgements())))
    code, said = robopref(tmp_path, *words)
    assert code == 0, said
    assert all(phases(tmp_path / "r").values())
