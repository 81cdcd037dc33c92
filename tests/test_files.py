import contextlib
import signal
import subprocess
import sys

import pytest

from robopref.errors import DataError
from robopref.files import read_json, replacing, write_json, write_text


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with contextlib.suppress(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "a.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        temporary.touch()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"Cannot write .*file/a\.txt: File exists"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_full_disk_is_a_sentence_with_the_free_space_and_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"  # a write beyond the limit then fails with EFBIG
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from robopref.files import write_text\n"
        "write_text(sys.argv[1], 'x' * 10_000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.txt"], capture_output=True, text=True, check=False
    )
    assert "MiB are free). What it held before is unchanged." in done.stderr
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_writer_killed_between_two_writes_leaves_a_whole_file(tmp_path):
    code = (
        "import itertools, sys\n"
        "from robopref.files import write_json\n"
        "for i in itertools.count():\n"
        "    write_json(sys.argv[1], {'i': i, 'fill': 'x' * 100_000})\n"
        "    print(i, flush=True)\n"
    )
    path = tmp_path / "value.json"
    child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(20):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(read_json(path)["fill"]) == 100_000


@pytest.mark.parametrize("content", ["", '{"a": ', "\xff\xfe"])
def test_a_truncated_or_foreign_file_is_named(tmp_path, content):
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"a\.json is truncated, or not JSON"):
        read_json(tmp_path / "a.json")


def test_what_is_written_is_read_back(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"a": [1, 2.5, None, "ü"]})
    assert read_json(tmp_path / "deep" / "a.json") == {"a": [1, 2.5, None, "ü"]}
