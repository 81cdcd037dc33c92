"""What goes into the store comes out again, by episode, by segment and by row; everything else is refused."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robopref.data import TrajectoryStore
from robopref.errors import ConfigError, DataError

SIZES = {"observation_size": 5, "action_size": 2, "keypoints": ("hand", "object"), "control_hz": 80.0}


def same(left, right) -> bool:
    arrays = ("observations", "actions", "rewards", "successes")
    return (
        all(np.array_equal(getattr(left, name), getattr(right, name)) for name in arrays)
        and left.keypoints.keys() == right.keypoints.keys()
        and all(np.array_equal(left.keypoints[name], right.keypoints[name]) for name in left.keypoints)
        and (left.terminated, left.provenance, left.frames)
        == (right.terminated, right.provenance, right.frames)
    )


def test_an_episode_comes_back_as_it_went_in_also_after_reopening(new_store, trajectory):
    episodes = [trajectory(0, 4), trajectory(1, 2, success_at=1), trajectory(2, 7)]
    with new_store() as store:
        assert [store.append(episode) for episode in episodes] == [0, 1, 2]
        assert all(same(store.episode(i), episode) for i, episode in enumerate(episodes))
    store = TrajectoryStore.open(store.path)
    assert len(store) == 3
    assert all(same(store.episode(i), episode) for i, episode in enumerate(episodes))
    assert store.lengths.tolist() == [4, 2, 7]
    assert store.returns.tolist() == [episode.episode_return for episode in episodes]
    assert store.successes.tolist() == [False, True, False]
    assert store.terminated.tolist() == [False, True, False]
    assert store.provenance(2).seed == 2
    assert (store.control_hz, store.metadata) == (80.0, {"task": "drawer-open"})


def test_episodes_written_together_are_those_written_one_by_one(new_store, trajectory, tmp_path):
    episodes = [trajectory(0, 4), trajectory(1, 2, success_at=1), trajectory(2, 7)]
    with new_store() as single:
        for episode in episodes:
            single.append(episode)
    with TrajectoryStore.create_with(tmp_path / "together", single.layout) as together:
        together.extend(episodes[:1])
        together.extend([])
        together.extend(episodes[1:])
        bad = dataclasses.replace(episodes[0], observations=np.zeros((5, 4)))
        with pytest.raises(DataError, match="observations must have shape"):
            together.extend([episodes[0], bad])
    assert together.fingerprint() == single.fingerprint()
    files = {path.relative_to(single.path) for path in single.path.rglob("*") if path.is_file()}
    assert files == {path.relative_to(together.path) for path in together.path.rglob("*") if path.is_file()}
    assert all((single.path / name).read_bytes() == (together.path / name).read_bytes() for name in files)


def test_rows_hold_their_own_number_and_the_last_row_of_an_episode_has_no_action(new_store):
    store = new_store((3, 2))
    assert store.array("observations")[:, 0].tolist() == [0, 1, 2, 3, 1000, 1001, 1002]
    assert store.array("actions")[:, 0].tolist() == [0, -1, -2, 0, -1000, -1001, 0]
    assert store.array("rewards").tolist() == [0.5, 1.5, 2.5, 0, 1000.5, 1001.5, 0]
    assert store.transition_rows().tolist() == [0, 1, 2, 4, 5]
    assert store.row_of(1, 2) == 6
    assert not store.array("observations").flags.writeable


def test_an_empty_store_has_empty_everything(new_store):
    store = new_store()
    assert len(store) == store.lengths.size == store.transition_rows().size == 0
    assert store.array("keypoints/hand").shape == (0, 3)
    assert store.whole_episodes().actions.shape == (0, 0, 2)
    assert store.verify() == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_segments_equal_a_slice_by_hand_padded_with_the_last_state_and_zeros(new_store, tmp_path, data):
    lengths = (3, 1, 6, 4)
    path = tmp_path / "store"
    store = TrajectoryStore.open(path) if path.exists() else new_store(lengths)
    count = data.draw(st.integers(1, 6))
    episodes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    starts = np.array([data.draw(st.integers(0, lengths[e] - 1)) for e in episodes])
    sizes = np.array(
        [data.draw(st.integers(1, lengths[e] - s)) for e, s in zip(episodes, starts, strict=True)]
    )
    batch = store.segments(episodes, starts, sizes)
    assert batch.actions.shape == (count, sizes.max(), 2)
    for i, (episode, start, size) in enumerate(zip(episodes, starts, sizes, strict=True)):
        whole = store.episode(int(episode))
        state = slice(start, start + size + 1)
        step = slice(start, start + size)
        assert np.array_equal(batch.observations[i, : size + 1], whole.observations[state])
        assert np.array_equal(batch.keypoints["object"][i, : size + 1], whole.keypoints["object"][state])
        assert np.array_equal(batch.actions[i, :size], whole.actions[step])
        assert np.array_equal(batch.rewards[i, :size], whole.rewards[step])
        assert batch.mask[i].tolist() == [t < size for t in range(sizes.max())]
        assert (batch.observations[i, size + 1 :] == whole.observations[start + size]).all()
        assert not batch.actions[i, size:].any()
        assert not batch.rewards[i, size:].any()
        assert not batch.successes[i, size:].any()
    store.close()


def test_whole_episodes_are_padded_to_the_longest(new_store):
    store = new_store((3, 1, 2))
    batch = store.whole_episodes()
    assert batch.mask.sum(axis=1).tolist() == [3, 1, 2]
    assert batch.rewards.sum(axis=1).tolist() == pytest.approx(store.returns.tolist())
    chosen = store.whole_episodes(np.array([2, 2]))
    assert chosen.rewards.tolist() == [[2000.5, 2001.5]] * 2


@pytest.mark.parametrize(
    ("episode", "start", "length", "sentence"),
    [
        (2, 0, 1, "no episode 2"),
        (-1, 0, 1, "no episode -1"),
        (0, 2, 2, "start 2 and length 2, but episode 0 has 3 actions"),
        (0, -1, 2, "start -1"),
        (1, 0, 0, "length 0"),
        (0, 0.5, 1, "starts must be integers"),
    ],
)
def test_a_segment_outside_its_episode_is_refused(new_store, episode, start, length, sentence):
    store = new_store((3, 2))
    columns = [np.array([0, value]) for value in (episode, start, length)]
    columns[2][0] = 1
    if isinstance(start, float):
        with pytest.raises((DataError, TypeError), match="starts"):  # TypeError: the shape checks
            store.segments(*columns)
        return
    with pytest.raises(DataError, match=sentence):
        store.segments(*columns)


def test_asking_for_what_is_not_there_is_an_error_that_says_what_is(new_store):
    store = new_store((3,))
    with pytest.raises(DataError, match="Did you mean 'rewards'"):
        store.array("reward")
    with pytest.raises(DataError, match="has 1 episodes, numbered from 0; there is no episode 1"):
        store.episode(1)
    with pytest.raises(DataError, match="states 0 to 3"):
        store.row_of(0, 4)
    with pytest.raises(DataError, match="first 2"):
        store.fingerprint(2)


def test_the_fingerprint_depends_on_content_alone_and_early_ones_survive_appending(new_store, trajectory):
    first, second = new_store((3, 2), "first"), new_store((3, 2), "second")
    assert first.fingerprint() == second.fingerprint() == first.fingerprint(2)
    early = first.fingerprint()
    first.append(trajectory(7, 2))
    second.append(trajectory(8, 2))
    assert first.fingerprint(2) == second.fingerprint(2) == early
    assert first.fingerprint() != second.fingerprint()
    prints = {first.fingerprint(n) for n in range(4)}
    assert len(prints) == 4
    assert TrajectoryStore.open(first.path).fingerprint() == first.fingerprint()


def test_verify_names_the_episodes_whose_rows_changed(new_store):
    with new_store((3, 2, 4)) as store:
        assert store.verify() == 3
    file = store.path / "rewards.f32"
    content = bytearray(file.read_bytes())
    content[4 * 5] ^= 1  # row 5 belongs to episode 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"1 episodes changed: 1\."):
        TrajectoryStore.open(store.path).verify()


def test_a_reader_sees_new_episodes_when_it_asks(new_store, trajectory):
    writer = new_store((3,))
    reader = TrajectoryStore.open(writer.path)
    before = reader.array("observations")
    writer.append(trajectory(1, 2))
    assert len(reader) == 1
    assert reader.refresh() == 1
    assert reader.refresh() == 0
    assert reader.lengths.tolist() == [3, 2]
    assert len(before) == 4
    assert same(reader.episode(1), trajectory(1, 2))


def test_an_episode_that_does_not_fit_is_refused_and_changes_nothing(new_store, trajectory):
    store = new_store((3,))
    good = trajectory(1, 2)
    before = store.fingerprint()
    with pytest.raises(DataError, match=r"observations must have shape \(3, 5\) in this store, got \(3, 4\)"):
        store.append(dataclasses.replace(good, observations=np.zeros((3, 4))))
    with pytest.raises(DataError, match=r"keypoints \['hand', 'object'\], the episode has \['hand'\]"):
        store.append(dataclasses.replace(good, keypoints={"hand": good.keypoints["hand"]}))
    with pytest.raises(DataError, match="not open for writing"):
        TrajectoryStore.open(store.path).append(good)
    assert (store.fingerprint(), store.verify()) == (before, 1)


def test_a_second_writer_is_refused_until_the_first_is_done(new_store):
    store = new_store((3,))
    with pytest.raises(DataError, match="Another process is writing"):
        TrajectoryStore.open(store.path, writable=True)
    assert len(TrajectoryStore.open(store.path)) == 1
    store.close()
    TrajectoryStore.open(store.path, writable=True).close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"observation_size": 0}, "observation_size must be a positive integer"),
        ({"control_hz": 0.0}, "control_hz must be a positive number"),
        ({"control_hz": float("nan")}, "control_hz must be a positive number"),
        ({"keypoints": ("../x",)}, "keypoint's name"),
        ({"keypoints": ("hand", "hand")}, "must differ"),
        ({"metadata": {"a": float("nan")}}, "plain JSON"),
        ({"metadata": {"a": object()}}, "plain JSON"),
    ],
)
def test_a_store_with_senseless_sizes_or_names_is_not_created(tmp_path, change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        TrajectoryStore.create(tmp_path / "store", **SIZES | change)
    assert not (tmp_path / "store" / "store.json").exists()


def test_creating_over_something_else_is_refused(new_store, tmp_path):
    new_store().close()
    with pytest.raises(DataError, match="is a trajectory store already"):
        TrajectoryStore.create(tmp_path / "store", **SIZES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"thesis\.tex"):
        TrajectoryStore.create(tmp_path / "mine", **SIZES)
    with pytest.raises(DataError, match="Cannot create"):
        TrajectoryStore.create(tmp_path / "mine" / "thesis.tex", **SIZES)


def header(store: TrajectoryStore, **change) -> None:
    path = store.path / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_what_is_not_a_store_is_refused_with_a_sentence(new_store, tmp_path):
    with pytest.raises(DataError, match="is not a trajectory store"):
        TrajectoryStore.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is not a trajectory store"):
        TrajectoryStore.open(tmp_path)
    store = new_store((3,))
    store.close()
    text = (store.path / "store.json").read_text()
    header(store, version=2)
    with pytest.raises(DataError, match="schema version 2; this robopref reads 1"):
        TrajectoryStore.open(store.path)
    header(store, version=1, format="zarr")
    with pytest.raises(DataError, match="does not describe a trajectory store"):
        TrajectoryStore.open(store.path)
    header(store, format="robopref-trajectories", keypoints=["../../etc"])
    with pytest.raises(DataError, match="damaged"):
        TrajectoryStore.open(store.path)
    (store.path / "store.json").write_text(text[:50])
    with pytest.raises(DataError, match="it is not JSON"):
        TrajectoryStore.open(store.path)


def test_a_file_shorter_than_the_log_says_is_named(new_store):
    store = new_store((3, 2))
    store.close()
    file = store.path / "actions.f32"
    file.write_bytes(file.read_bytes()[:-1])
    for writable in (False, True):
        with pytest.raises(DataError, match=r"actions\.f32 is truncated: it holds 55 bytes.* need 56"):
            TrajectoryStore.open(store.path, writable=writable)
    file.unlink()
    with pytest.raises(DataError, match="truncated: it holds 0 bytes"):
        TrajectoryStore.open(store.path)


def test_a_damaged_line_in_the_log_is_an_error_not_a_lost_episode(new_store):
    store = new_store((3, 2))
    store.close()
    log = store.path / "episodes.jsonl"
    content = log.read_bytes()
    for damaged in (
        content.replace(b'"length":3', b'"length":1'),
        content.replace(b'"length":2', b'"length":1'),
    ):
        log.write_bytes(damaged)
        for writable in (False, True):
            with pytest.raises(DataError, match="cannot be trusted"):
                TrajectoryStore.open(store.path, writable=writable)
        assert log.read_bytes() == damaged
    log.write_bytes(content.split(b"\n")[1] + b"\n")
    with pytest.raises(DataError, match="should start at row 0"):
        TrajectoryStore.open(store.path)
