"""The label store and the desk on a real PostgreSQL server, which the test starts where there is one."""

import multiprocessing
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore
from robopref.errors import DataError
from robopref.labeling.desk import Desk
from robopref.labeling.plan import make_plan
from tests.labeling.made import made_store
from tests.labeling.server import label_all, serving

PAIR = ("a_episode", "a_start", "a_length", "b_episode", "b_start", "b_length")


@pytest.fixture(scope="module")
def server():
    """A server on a socket in a folder of its own; its URL."""
    programs = [shutil.which(name) for name in ("initdb", "pg_ctl")]
    if None in programs:
        pytest.skip("initdb and pg_ctl of PostgreSQL are not on the PATH")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # the server refuses to run as root
    if root and (shutil.which("runuser") is None or not _exists("postgres")):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
    pytest.importorskip("psycopg", reason="the driver is not installed: robopref[postgres]")
    folder = Path(tempfile.mkdtemp(prefix="robopref-postgres-"))
    if root:
        shutil.chown(folder, "postgres")

    def call(program, *arguments):
        before = ["runuser", "-u", "postgres", "--"] if root else []
        subprocess.run([*before, program, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = folder / "data"
    call(programs[0], "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync")
    listen = f"-k {folder} -c listen_addresses='' -c fsync=off"
    call(programs[1], "-D", str(data), "-l", str(folder / "log"), "-o", listen, "-w", "start")
    try:
        yield f"postgresql://postgres@/{{}}?host={folder}"
    finally:
        call(programs[1], "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _exists(user):
    import pwd

    return user in {entry.pw_name for entry in pwd.getpwall()}


@pytest.fixture
def url(server):
    """An empty database for one test."""
    return made_database(server)


@pytest.fixture
def another_url(server):
    return made_database(server)


def made_database(server):
    import psycopg

    name = f"labels_{uuid4().hex}"
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]  # a name of our own
    return server.format(name)


@pytest.fixture
def store(tmp_path):
    return made_store(tmp_path / "store", 20)


def judgement(number, annotator):
    row = dict(zip(PAIR, (number % 19, 0, 12, 19, 0, 12), strict=True))
    return Judgement(
        **row, answer="a", source="human", annotator=annotator, uid=f"{annotator}-{number}", note="ä\n'"
    )


def test_what_is_stored_is_read_back_once_and_retracted(url, store):
    given = [judgement(number, "anna") for number in range(30)]
    data = {"data_fingerprint": store.fingerprint(), "episodes": len(store)}
    with LabelStore(url) as labels:
        ids = labels.add(given, **data)
        assert labels.add(given[:3], **data) == ids[:3]
        labels.retract(ids[0])
    with LabelStore(url) as again:
        assert list(again.judgements().values()) == given[1:]
        assert len(again.preferences(annotator="anna")) == 29
        other = made_store(store.path.with_name("other"), 20, length=13)
        with pytest.raises(DataError, match="other data"):
            again.check_data(other)


def test_the_desk_goes_on_where_it_was(url, store):
    plan = make_plan(store, pairs=30)
    asked = []
    for _ in range(2):
        with LabelStore(url) as labels:
            desk = Desk(plan, labels, store, repeated=0.0, mirrored=0.0)
            for _ in range(10):
                question = desk.question("anna")
                assert question is not None
                desk.answer("anna", question.id, "left")
                asked.append(question.index)
            last = desk.given("anna")[-1].judgement.uid
            desk.undo("anna", last)
            asked.pop()
    assert asked == list(range(18))
    with LabelStore(url) as labels:
        assert labels.count() == 18


def write(url, fingerprint, annotator, start):
    """In a process of its own: open the database, store 60 judgements one by one, some of them twice."""
    start.wait()
    with LabelStore(url) as labels:
        for number in range(60):
            for _ in range(1 + number % 2):
                labels.add([judgement(number, annotator)], data_fingerprint=fingerprint, episodes=20)
            labels.add([judgement(number, "both")], data_fingerprint=fingerprint, episodes=20)


def test_two_processes_that_begin_at_once_lose_nothing_and_store_nothing_twice(url, store):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    writers = [
        context.Process(target=write, args=(url, store.fingerprint(), name, start))
        for name in ("anna", "bert")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    with LabelStore(url) as labels:
        uids = [judgement.uid for judgement in labels.judgements().values()]
    assert len(uids) == len(set(uids)) == 180


def of_version_1(url):
    """Make a store as version 1 made it: SQLite's statements, with PostgreSQL's names of the types."""
    import psycopg

    text = (Path(__file__).parents[1] / "data" / "labels_version_1.sql").read_text()
    renamed = {"DOUBLE": "DOUBLE PRECISION", "DATETIME": "TIMESTAMPTZ", "\tid INTEGER": "\tid SERIAL"}
    for sqlite, postgresql in renamed.items():
        text = text.replace(sqlite, postgresql)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(text)  # type: ignore[arg-type]  # a file of our own
        for table in ("robopref_data", "robopref_judgements", "robopref_retractions"):
            connection.execute(f"SELECT setval('{table}_id_seq', max(id)) FROM {table}")  # type: ignore[arg-type]


def test_a_store_of_version_1_is_carried_over_with_everything_in_it(url):
    of_version_1(url)
    thumb = Judgement(3, 0, 5, None, None, None, answer="up", source="human", annotator="ada", uid="u3")
    marked = replace(judgement(0, "ada"), b_episode=2, decided_start=2, decided_length=4)
    for _ in range(2):
        with LabelStore(url) as labels:
            assert labels.retracted() == {"u0"}
            assert {j.uid: j.answer for j in labels.judgements().values()} == {"u1": "skip", "u2": 0.25}
    with LabelStore(url) as labels:
        assert labels.add([thumb, marked], data_fingerprint="f" * 64, episodes=10) == [4, 5]
        assert list(labels.judgements().values())[2:] == [thumb, marked]
        assert labels.ratings().label.tolist() == [1]
        assert labels.preferences(decided=True).a.length.tolist() == [5, 4]


def test_a_carried_over_store_has_the_tables_of_a_new_one(url, another_url):
    of_version_1(url)
    for each in (url, another_url):
        LabelStore(each).close()
    old, new = (
        sa.inspect(sa.create_engine(each.replace("postgresql", "postgresql+psycopg", 1), poolclass=NullPool))
        for each in (url, another_url)
    )
    assert sorted(old.get_table_names()) == sorted(new.get_table_names())
    for table in new.get_table_names():
        assert [str(c) for c in old.get_columns(table)] == [str(c) for c in new.get_columns(table)]
        assert old.get_indexes(table) == new.get_indexes(table)
        assert old.get_foreign_keys(table) == new.get_foreign_keys(table)


@pytest.mark.slow
def test_the_server_keeps_answers_in_postgresql_and_gives_a_pair_to_one_person(url, store):
    options = (f"labels='{url}'", "shared=0.0", "pairs=40")
    shown, answered = {}, []
    with serving(store.path, *options) as running, httpx.Client(base_url=running.url) as client:
        for name in ("anna", "bert", "carl"):
            shown[name] = client.get("/api/question", params={"annotator": name}).json()["question"]
        for name, question in shown.items():
            body = {"annotator": name, "question": question["id"], "choice": "left"}
            client.post("/api/answer", json=body).raise_for_status()
            answered.append(question["id"])
    assert len({question.split(".")[2] for question in answered}) == 3
    with LabelStore(url) as labels:
        assert {judgement.uid for judgement in labels.judgements().values()} == set(answered)


@pytest.mark.slow
def test_two_servers_on_one_postgresql_share_out_the_pairs(url, store):
    options = (f"labels='{url}'", "shared=0.0", "pairs=24")
    with serving(store.path, *options) as one, serving(store.path, *options) as other:
        asked = label_all([one.url, other.url], people=12)
        progress = [httpx.get(f"{server.url}api/progress").json()["begun"] for server in (one, other)]
    assert sorted(index for own in asked for index in own) == list(range(24))
    assert progress == [24, 24]
    with LabelStore(url) as labels:
        assert labels.count() == 24
