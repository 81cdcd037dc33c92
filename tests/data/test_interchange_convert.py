"""What holds for every format: round trips change nothing, damage is a sentence, nothing stays half done."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from robopref.data import Provenance, Trajectory, TrajectoryStore
from robopref.data.interchange.convert import convert, format_of, labels_of
from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore
from robopref.errors import ConfigError, DataError, MissingExtraError, RoboprefError

FORMATS = {"robomimic": "there.hdf5", "minari": "there", "lerobot": "there"}


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


@pytest.fixture
def odd_store(tmp_path):
    """Episodes of odd numbers: negative zero, tiny and huge floats, thirds; one number an action."""
    rng, path = np.random.default_rng(0), tmp_path / "here"
    with TrajectoryStore.create(
        path,
        observation_size=3,
        action_size=1,
        keypoints=("hand",),
        control_hz=12.5,
        metadata={"ä": [1, None]},
    ) as store:
        for index, steps in enumerate((1, 4, 7)):
            states = (rng.normal(size=(steps + 1, 3)) / 3).astype(np.float32)
            states[0] = (-0.0, 1e-45, 3e38)
            store.append(
                Trajectory(
                    observations=states,
                    actions=rng.normal(size=(steps, 1)).astype(np.float32),
                    rewards=rng.normal(size=steps).astype(np.float32),
                    successes=rng.random(steps) < 0.5,
                    keypoints={"hand": rng.normal(size=(steps + 1, 3)).astype(np.float32)},
                    terminated=index == 1,
                    provenance=Provenance(
                        "t/ü",
                        "env-v0",
                        index,
                        "expert",
                        {"noise": 0.1, "n": 2, "s": "x"},
                        "ab",
                        {"mujoco": "3.3.0"},
                    ),
                    frames="frames/0.mp4" if index == 0 else None,
                )
            )
    return path


def there_and_back(source: Path, kind: str) -> Path:
    away, back = source.parent / FORMATS[kind], source.parent / "back"
    convert(source, away, target_format=kind)
    assert format_of(away) == kind
    done = convert(away, back)
    assert done.notes == []
    return back


def test_a_round_trip_gives_back_the_same_bits_and_the_same_fingerprint(odd_store, kind):
    with (
        TrajectoryStore.open(odd_store) as before,
        TrajectoryStore.open(there_and_back(odd_store, kind)) as after,
    ):
        for name in before.layout.arrays:
            assert before.array(name).tobytes() == after.array(name).tobytes(), name
        assert after.fingerprint() == before.fingerprint()
        assert after.metadata == before.metadata
        assert after.control_hz == 12.5
        for index in range(3):
            one, other = before.episode(index), after.episode(index)
            assert (one.provenance, one.terminated, one.frames) == (
                other.provenance,
                other.terminated,
                other.frames,
            )


def test_labels_travel_with_the_data(odd_store, kind):
    with TrajectoryStore.open(odd_store) as store, LabelStore.beside(store) as labels:
        given = [
            Judgement(0, 0, 1, 1, 2, 2, "a", "human", "ann", shown_left="b", response_time_s=1.5, note="ü"),
            Judgement(1, 0, 3, 2, 0, 3, 0.25, "transfer", "cpa", confidence=0.5),
            Judgement(1, 0, 3, 2, 0, 3, "skip", "human", "bob"),
        ]
        ids = labels.add(given, data_fingerprint=store.fingerprint(), episodes=3)
        labels.retract(ids[0])
        before = list(labels.judgements().values())
    with TrajectoryStore.open(there_and_back(odd_store, kind)) as store, LabelStore.beside(store) as labels:
        assert list(labels.judgements().values()) == before
        labels.check_data(store)
    assert labels_of(odd_store.parent / FORMATS[kind]).exists()


def test_labels_of_other_data_are_refused_and_can_be_left_out(odd_store, kind, new_store):
    new_store((3, 3), name="other").close()
    with TrajectoryStore.open(odd_store.parent / "other") as store, LabelStore.beside(store) as labels:
        labels.add(
            [Judgement(0, 0, 1, 1, 0, 1, "a", "human", "ann")],
            data_fingerprint=store.fingerprint(),
            episodes=2,
        )
        away = odd_store.parent / FORMATS[kind]
        convert(odd_store, away, target_format=kind)
        labels_of(away).parent.mkdir()
        labels.export_parquet(labels_of(away))
    with pytest.raises(DataError, match="labels=false converts the data without them"):
        convert(away, odd_store.parent / "back")
    assert not (odd_store.parent / "back").exists()
    assert convert(away, odd_store.parent / "back", labels=False).labels == 0


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut a file short, or overwrite some of it."""
    if rng.random() < 0.4:
        return data[: int(rng.integers(len(data)))]
    spoilt = bytearray(data)
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 40))
    spoilt[at : at + size] = rng.bytes(len(spoilt[at : at + size]))
    return bytes(spoilt)


def test_damaged_files_are_a_sentence_or_still_readable_and_never_a_crash(odd_store, kind):
    away, rng, refused = odd_store.parent / FORMATS[kind], np.random.default_rng(1), 0
    convert(odd_store, away, target_format=kind)
    for file in files_of(away):
        whole = file.read_bytes()
        for number in range(15):
            file.write_bytes(damaged(whole, rng))
            back = odd_store.parent / f"back-{file.name}-{number}"
            try:
                convert(away, back, lossy=True)
            except RoboprefError:
                refused += 1
                assert not back.exists()
            else:
                with TrajectoryStore.open(back) as store:
                    store.verify()
            shutil.rmtree(back, ignore_errors=True)
        file.write_bytes(whole)
    assert refused >= 5
    assert not list(odd_store.parent.glob(".*"))


def test_a_truncated_file_is_refused_at_any_length(odd_store, kind):
    away = odd_store.parent / FORMATS[kind]
    convert(odd_store, away, target_format=kind)
    largest = max(files_of(away), key=lambda file: file.stat().st_size)
    whole = largest.read_bytes()
    for share in (0, 0.1, 0.5, 0.9, 0.999):
        largest.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=r"truncated"):
            convert(away, odd_store.parent / "back", lossy=True)


def test_a_file_that_is_missing_is_named(odd_store, kind):
    away = odd_store.parent / FORMATS[kind]
    convert(odd_store, away, target_format=kind)
    for file in files_of(away):
        if "robopref" in file.name or file.name in ("stats.json", "tasks.parquet"):
            continue
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(DataError, match=r"there"):
            convert(away, odd_store.parent / "back", lossy=True)
        file.write_bytes(content)


def test_nothing_is_left_of_a_conversion_that_failed(odd_store, kind, monkeypatch):
    episode, calls = TrajectoryStore.episode, []

    def fails_at_the_second(self, index):
        calls.append(index)
        if index == 1:
            raise OSError(28, "No space left on device")
        return episode(self, index)

    monkeypatch.setattr(TrajectoryStore, "episode", fails_at_the_second)
    before = sorted(odd_store.parent.iterdir())
    with pytest.raises(DataError, match=r"Cannot write .*there.*No space left"):
        convert(odd_store, odd_store.parent / FORMATS[kind], target_format=kind)
    assert sorted(odd_store.parent.iterdir()) == before
    assert calls


def test_a_source_that_cannot_be_read_is_named_and_not_the_target(odd_store, kind, monkeypatch):
    def fails(self, index):
        raise OSError(5, "Input/output error", str(odd_store / "actions.npy"))

    monkeypatch.setattr(TrajectoryStore, "episode", fails)
    with pytest.raises(DataError, match=r"Cannot read .*here/actions.npy: Input/output error"):
        convert(odd_store, odd_store.parent / FORMATS[kind], target_format=kind)


def test_what_is_there_is_never_overwritten(odd_store, kind):
    away = odd_store.parent / FORMATS[kind]
    convert(odd_store, away, target_format=kind)
    with pytest.raises(DataError, match="exists already"):
        convert(odd_store, away, target_format=kind)


def test_labels_beside_another_file_are_never_overwritten(odd_store):
    """``drawer.h5`` and a file that is made anew share the labels' name with ``drawer.hdf5``."""
    with TrajectoryStore.open(odd_store) as store, LabelStore.beside(store) as labels:
        given = [Judgement(0, 0, 1, 1, 0, 1, "a", "human", "ann")]
        labels.add(given, data_fingerprint=store.fingerprint(), episodes=3)
        convert(odd_store, odd_store.parent / "drawer.hdf5")
        held = odd_store.parent / "preferences/drawer.parquet"
        before = held.read_bytes()
        labels.retract(labels.add(given[:1], data_fingerprint=store.fingerprint(), episodes=3)[0])
    for name in ("drawer.h5", "drawer.hdf5"):
        (odd_store.parent / "drawer.hdf5").unlink(missing_ok=True)
        with pytest.raises(DataError, match=r"drawer.parquet exists already.*move these labels away"):
            convert(odd_store, odd_store.parent / name)
        assert not (odd_store.parent / name).exists()
        assert held.read_bytes() == before
    convert(odd_store, odd_store.parent / "drawer.h5", labels=False)
    assert held.read_bytes() == before


def test_what_was_stopped_between_its_labels_and_its_data_can_be_done_again(odd_store, monkeypatch):
    def stopped_at_the_data(path, target):
        if target == odd_store.parent / "drawer.hdf5":
            raise KeyboardInterrupt
        return rename(path, target)

    with TrajectoryStore.open(odd_store) as store, LabelStore.beside(store) as labels:
        given = [Judgement(0, 0, 1, 1, 0, 1, "a", "human", "ann")]
        labels.add(given, data_fingerprint=store.fingerprint(), episodes=3)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", stopped_at_the_data)
    with pytest.raises(KeyboardInterrupt):
        convert(odd_store, odd_store.parent / "drawer.hdf5")
    monkeypatch.undo()
    assert not (odd_store.parent / "drawer.hdf5").exists()
    assert (odd_store.parent / "preferences/drawer.parquet").exists()
    assert convert(odd_store, odd_store.parent / "drawer.hdf5").labels == 1
    assert convert(odd_store.parent / "drawer.hdf5", odd_store.parent / "back").labels == 1


def test_recorded_frames_are_a_loss_that_is_named(odd_store, kind):
    (odd_store / "frames").mkdir()
    (odd_store / "frames" / "0.mp4").write_bytes(b"video")
    away = odd_store.parent / FORMATS[kind]
    with pytest.raises(DataError, match=r"would lose: the recorded frames.* Pass lossy=true"):
        convert(odd_store, away, target_format=kind)
    assert not away.exists()
    assert "frames" in convert(odd_store, away, target_format=kind, lossy=True).notes[0]


def test_files_beside_a_store_are_a_loss_and_what_is_computed_from_it_is_none(odd_store, kind):
    (odd_store / "signals").mkdir()
    (odd_store / "preferences").mkdir()
    for name in ("candidates.parquet", "preferences/ann.parquet", "signals/ab.npz", "origin.json"):
        (odd_store / name).write_bytes(b"x")
    with pytest.raises(DataError) as refusal:
        convert(odd_store, odd_store.parent / FORMATS[kind], target_format=kind)
    assert "the file 'candidates.parquet'" in str(refusal.value)
    assert "the file 'preferences'" in str(refusal.value)
    assert "signals" not in str(refusal.value)
    assert "origin" not in str(refusal.value)


def test_files_beside_a_data_set_in_a_folder_are_a_loss(odd_store):
    convert(odd_store, odd_store.parent / "there", target_format="lerobot")
    (odd_store.parent / "there/preferences").mkdir()
    (odd_store.parent / "there/preferences/ann.parquet").write_bytes(b"x")
    (odd_store.parent / "there/README.md").write_text("x")
    with pytest.raises(DataError, match=r"'README.md'.*'ann.parquet'"):
        convert(odd_store.parent / "there", odd_store.parent / "back")


def test_conversions_that_make_no_sense_are_refused(odd_store, tmp_path, new_store):
    def refused(error, sentence, *places, **options):
        with pytest.raises(error, match=sentence):
            convert(*places, **options)

    refused(ConfigError, "Say format=lerobot", odd_store, tmp_path / "x")
    refused(ConfigError, "Did you mean 'lerobot'", odd_store, tmp_path / "x", target_format="lerobt")
    refused(ConfigError, "from store to store", odd_store, tmp_path / "x", target_format="store")
    refused(ConfigError, "is a file .hdf5", odd_store, tmp_path / "x", target_format="robomimic")
    refused(ConfigError, "no other is", odd_store, tmp_path / "x.hdf5", target_format="minari")
    refused(ConfigError, "this is a store", odd_store, tmp_path / "x.hdf5", observation=["flat"])
    refused(DataError, "does not exist. robopref reads", tmp_path / "nowhere", tmp_path / "x")
    (tmp_path / "empty").mkdir()
    refused(DataError, "is none of them", tmp_path / "empty", tmp_path / "x")
    new_store(name="none").close()
    refused(DataError, "holds no episodes", tmp_path / "none", tmp_path / "x.hdf5")
    convert(odd_store, tmp_path / "x.hdf5")
    refused(ConfigError, "by way of a store", tmp_path / "x.hdf5", tmp_path / "y", target_format="lerobot")


def test_the_missing_extra_is_named(odd_store, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'robopref\[interchange\]'"):
        convert(odd_store, odd_store.parent / "there", target_format="minari")
