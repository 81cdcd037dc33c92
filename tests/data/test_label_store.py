"""Judgements in a database: kept for good, by many writers, about one set of data."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from robopref.data.label_store import LabelStore
from robopref.data.label_tokens import AnnotatorTokens
from robopref.errors import ConfigError, DataError
from tests.data.judgements import DATA, judgement, many, same


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'labels.sqlite'}"


def test_answers_become_labels_and_skipped_pairs_do_not(url):
    with LabelStore(url) as labels:
        answers = ["a", "b", "equal", "skip", 0.75]
        labels.add([judgement(i, answer=answer) for i, answer in enumerate(answers)], **DATA)
        stored = labels.preferences()
        assert stored.label.tolist() == [1, 0, 0.5, 0.75]
        assert stored.a.start.tolist() == [0, 1, 2, 4]
        assert stored.b.length.tolist() == [6] * 4
        assert labels.count() == 5


def test_everything_that_was_said_comes_back_also_after_reopening(url):
    said = judgement(
        3,
        answer=0.25,
        confidence=0.5,
        created_at=datetime(2026, 5, 4, 12, 0, 1, 250, tzinfo=timezone(timedelta(hours=2))),
        response_time_s=1.5,
        shown_left="b",
        note="b jerks ü at the end",
    )
    with LabelStore(url) as labels:
        (number,) = labels.add([said], **DATA)
    with LabelStore(url) as labels:
        (back,) = labels.judgements().values()
        assert list(labels.judgements()) == [number]
    assert back == said
    assert back.created_at.utcoffset() == timedelta(0)


def test_an_empty_store_has_no_preferences(url):
    with LabelStore(url) as labels:
        assert len(labels.preferences()) == labels.count() == 0


def test_a_retracted_judgement_no_longer_counts_but_is_still_there(url, tmp_path):
    with LabelStore(url) as labels:
        first, second = labels.add([judgement(0), judgement(1, answer="b")], **DATA)
        labels.retract(first)
        labels.retract(first)
        assert labels.preferences().label.tolist() == [0]
        assert list(labels.judgements()) == [second]
        assert labels.count() == 1
        with pytest.raises(DataError, match="no judgement 99"):
            labels.retract(99)
    raw = sqlite3.connect(tmp_path / "labels.sqlite")
    assert raw.execute("SELECT count(*) FROM robopref_judgements").fetchone() == (2,)


def test_the_same_judgement_added_twice_is_stored_once(url):
    with LabelStore(url) as labels:
        one = judgement(0)
        first = labels.add([one, judgement(1)], **DATA)
        again = labels.add([judgement(2), one], **DATA)
        assert again[1] == first[0]
        assert labels.count() == 3


def test_filters_by_source_and_annotator(url):
    with LabelStore(url) as labels:
        rows = [("human", "ada"), ("human", "bob"), ("teacher", "oracle"), ("teacher", "bob")]
        labels.add([judgement(i, source=s, annotator=a) for i, (s, a) in enumerate(rows)], **DATA)
        assert labels.preferences(source="human").a.start.tolist() == [0, 1]
        assert labels.preferences(annotator="bob").a.start.tolist() == [1, 3]
        assert labels.preferences(source="teacher", annotator="bob").a.start.tolist() == [3]
        assert labels.preferences(annotator=["ada", "oracle"]).a.start.tolist() == [0, 2]
        assert labels.count(source=["human", "teacher"]) == 4
        assert labels.count(annotator=[]) == 0


def test_twenty_thousand_preferences_are_stored_in_seconds_and_come_back_equal(url):
    preferences = many(20_000)
    with LabelStore(url) as labels:
        start = time.process_time()
        assert labels.add_preferences(preferences, source="teacher", annotator="noisy", **DATA) == 20_000
        assert time.process_time() - start < 5  # 0.4 s on a 2.5 GHz core; a loaded machine gets some room
        assert same(labels.preferences(), preferences)
        soft = sum(isinstance(row.answer, float) for row in labels.judgements().values())
        assert soft == int((preferences.label == 0.25).sum())
        assert labels.add_preferences(many(0), source="model", annotator="m", **DATA) == 0


def test_labels_of_other_data_are_refused(url, new_store, trajectory):
    store = new_store((3, 2))
    with LabelStore.beside(store) as labels:
        labels.add([judgement(0)], data_fingerprint=store.fingerprint(), episodes=2)
        store.append(trajectory(2, 4))
        labels.check_data(store)
        labels.add([judgement(1)], data_fingerprint=store.fingerprint(), episodes=3)
        labels.check_data(store)
        shorter = new_store((3, 2), "shorter")
        with pytest.raises(DataError, match=r"speak of 3 episodes, but .*shorter has only 2"):
            labels.check_data(shorter)
        with pytest.raises(DataError, match=r"speak of other data than .*: the first 2 episodes"):
            labels.check_data(new_store((3, 3, 3), "other"))
        with pytest.raises(DataError, match="holds labels of other data: its 3 episodes"):
            labels.add([judgement(0)], data_fingerprint="0" * 64, episodes=3)
        with pytest.raises(DataError, match="names episode 8, but the data it speaks of has 3"):
            labels.add([judgement(8)], data_fingerprint=store.fingerprint(), episodes=3)
        assert labels.count() == 2
    assert (store.path / "labels.sqlite").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answer": "equals"}, "Did you mean 'equal'"),
        ({"answer": 1.5}, "soft answer must lie in"),
        ({"answer": float("nan")}, "soft answer must lie in"),
        ({"source": "robot"}, "No source is called 'robot'"),
        ({"annotator": ""}, "annotator and uid must not be empty"),
        ({"confidence": -0.1}, "confidence must lie in"),
        ({"created_at": datetime(2026, 1, 1)}, "created_at needs a time zone"),
        ({"a_start": -1}, "a_start must be an integer of at least 0"),
        ({"b_length": 0}, "b_length must be an integer of at least 1"),
        ({"a_episode": 1.0}, "a_episode must be an integer"),
        ({"response_time_s": -1.0}, "response_time_s"),
        ({"shown_left": "left"}, "shown_left"),
    ],
)
def test_a_judgement_that_makes_no_sense_cannot_exist(change, sentence):
    with pytest.raises(DataError, match=sentence):
        judgement(0, **change)


WRITER = """
import sys
from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore

url, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
labels = LabelStore(url)
print("ready", flush=True)
for i in range(count):
    given = Judgement(0, i, 5, 1, i, 5, answer="a", source="human", annotator=who, uid=f"{who}-{i}")
    labels.add([given], data_fingerprint="f" * 64, episodes=10)
    labels.preferences(annotator=who)
    print(i, flush=True)
"""


def start_writer(url: str, who: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, url, who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_create_and_write_at_once_lose_and_repeat_nothing(url):
    writers = [start_writer(url, f"annotator {i}", 25) for i in range(4)]
    for writer in writers:
        error = writer.communicate(timeout=120)[1]
        assert writer.returncode == 0, error
    with LabelStore(url) as labels:
        for i in range(4):
            mine = labels.preferences(annotator=f"annotator {i}")
            assert mine.a.start.tolist() == list(range(25))
        assert labels.count() == 100


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
def test_kill_9_of_a_writer_loses_no_acknowledged_answer(url):
    for round in range(3):
        writer = start_writer(url, f"round {round}", 10**6)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.05 * round)
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.communicate()[0].split("\n")[:-1]]
        with LabelStore(url) as labels:
            stored = labels.preferences(annotator=f"round {round}").a.start.tolist()
        assert stored == list(range(len(stored)))
        assert len(acknowledged) <= len(stored) <= len(acknowledged) + 1


def filled(url: str) -> Path:
    with LabelStore(url) as labels:
        labels.add_preferences(many(3000), source="teacher", annotator="oracle", **DATA)
    return Path(url.removeprefix("sqlite:///"))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.98])
def test_a_truncated_database_is_a_sentence(url, share):
    path = filled(url)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="damaged"):
        LabelStore(url).preferences()


def test_a_foreign_file_or_database_is_refused_and_left_alone(url, tmp_path):
    path = tmp_path / "labels.sqlite"
    path.write_text("these are not the labels that you are looking for\n" * 100)
    with pytest.raises(DataError, match=r"not a SQLite file|no SQLite file"):
        LabelStore(url)
    path.unlink()
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE songs (name TEXT)")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"not a label store: it has tables \['songs'\]"):
        LabelStore(url)
    assert path.read_bytes() == before


def test_another_schema_version_is_refused(url, tmp_path):
    LabelStore(url).close()
    raw = sqlite3.connect(tmp_path / "labels.sqlite")
    raw.execute("UPDATE robopref_about SET value = '7' WHERE name = 'version'")
    raw.commit()
    raw.close()
    with pytest.raises(DataError, match="schema version 7; this robopref reads 2"):
        LabelStore(url)


def test_a_place_that_does_not_exist_and_a_url_that_is_none_are_sentences(tmp_path):
    with pytest.raises(DataError, match="directory does not exist"):
        LabelStore(f"sqlite:///{tmp_path}/nowhere/labels.sqlite")
    with pytest.raises(ConfigError, match="no database URL"):
        LabelStore("labels.sqlite")
    with pytest.raises(ConfigError, match="no database URL"):
        LabelStore("dbase:///labels")


def test_a_store_behind_a_symbolic_link_is_written_until_the_link_leads_elsewhere(tmp_path):
    for name in ("there", "other"):
        (tmp_path / name).mkdir()
    link = tmp_path / "labels.sqlite"
    link.symlink_to(tmp_path / "there" / "mine.sqlite")
    with LabelStore(f"sqlite:///{link}") as labels:
        labels.add([judgement(0)], **DATA)
        LabelStore(f"sqlite:///{tmp_path / 'other' / 'mine.sqlite'}").close()
        link.unlink()
        link.symlink_to(tmp_path / "other" / "mine.sqlite")
        with pytest.raises(DataError, match="deleted or replaced while it was in use"):
            labels.add([judgement(1)], **DATA)
    with LabelStore(f"sqlite:///{tmp_path / 'there' / 'mine.sqlite'}") as labels:
        assert labels.count() == 1


def test_a_store_in_memory_is_one_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with LabelStore("sqlite://") as labels:
        labels.add([judgement(0)], **DATA)
        assert labels.count() == 1
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_another_process_made_anew_is_not_the_one_that_was_deleted(url, tmp_path):
    with LabelStore(url) as labels:
        labels.add([judgement(0)], **DATA)
        (tmp_path / "labels.sqlite-wal").unlink()
        again = "import sqlite3, sys, time; raw = sqlite3.connect(sys.argv[1]); "
        again += "raw.execute('SELECT count(*) FROM robopref_tokens').fetchone(); print(flush=True); input()"
        command = [sys.executable, "-c", again, tmp_path / "labels.sqlite"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert (tmp_path / "labels.sqlite-wal").exists()
            with pytest.raises(DataError, match="deleted or replaced while it was in use"):
                labels.add([judgement(1)], **DATA)
            other.communicate("\n")


def test_a_file_that_is_deleted_while_somebody_writes_is_noticed_before_the_end(url, tmp_path):
    with LabelStore(url) as labels:
        for number, part in enumerate(("", "-wal")):
            file = tmp_path / f"labels.sqlite{part}"

            def write_and_delete(number=number, file=file):
                with labels.writing() as connection:
                    labels.add([judgement(number)], **DATA, connection=connection)
                    file.rename(tmp_path / "away")

            with pytest.raises(DataError, match="deleted or replaced while it was in use"):
                write_and_delete()
            (tmp_path / "away").rename(file)
            assert labels.count() == 0
        labels.add([judgement(0)], **DATA)
        assert labels.count() == 1


def test_a_token_is_not_issued_nor_revoked_in_a_store_whose_log_is_gone(url, tmp_path):
    tokens = AnnotatorTokens(url)
    tokens.issue("ada")
    (tmp_path / "labels.sqlite-wal").rename(tmp_path / "away")
    for change in (tokens.issue, tokens.revoke):
        with pytest.raises(DataError, match="deleted or replaced while it was in use"):
            change("ada")
    (tmp_path / "away").rename(tmp_path / "labels.sqlite-wal")
    assert tokens.revoke("ada") == 1
    tokens.close()


@pytest.mark.parametrize("part", ["", "-wal"])
def test_what_is_stored_in_a_deleted_file_is_refused_and_taken_when_the_file_is_back(url, tmp_path, part):
    with LabelStore(url) as labels:
        labels.add([judgement(0)], **DATA)
        file = tmp_path / f"labels.sqlite{part}"
        file.rename(tmp_path / "away")
        with pytest.raises(DataError, match="deleted or replaced while it was in use"):
            labels.add([judgement(1)], **DATA)
        (tmp_path / "away").rename(file)
        labels.add([judgement(2)], **DATA)
        assert labels.count() == 2


def test_a_full_disk_is_a_sentence_and_keeps_what_was_stored(url, tmp_path):
    with LabelStore(url) as labels:
        labels.add([judgement(0)], **DATA)
        limit = "PRAGMA max_page_count=40"  # SQLite then says that the disk is full
        with labels._engine.connect() as connection:
            connection.exec_driver_sql(limit)
        with pytest.raises(DataError, match="disk is full; nothing that was stored is lost"):
            labels.add_preferences(many(20_000), source="model", annotator="m", **DATA)
        assert labels.count() == 1


def test_a_store_that_may_not_be_written_is_a_sentence_until_it_may_again(url):
    with LabelStore(url) as labels:
        with labels._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=ON")  # SQLite then says that it is read-only
        with pytest.raises(DataError, match="the file may not be written"):
            labels.add([judgement(0)], **DATA)
        with labels._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=OFF")
        labels.add([judgement(0)], **DATA)
        assert labels.count() == 1


def test_a_new_judgement_is_given_now_and_has_its_own_name():
    one, two = judgement(), judgement()
    assert one.uid != two.uid
    assert abs(datetime.now(UTC) - one.created_at) < timedelta(minutes=1)
    assert dataclasses.replace(one, answer=1.0).label == one.label == 1.0
