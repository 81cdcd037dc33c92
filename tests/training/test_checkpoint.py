import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from robopref.errors import DataError
from robopref.training.checkpoint import load_checkpoint, remove_leftovers, save_checkpoint


@contextmanager
def disk_of(size):
    """No file may grow beyond ``size`` bytes: the system refuses to write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_tensors_and_record_come_back_as_they_were(tmp_path):
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3).t(),
        "flag": torch.tensor(True),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    record = {"step": 7, "metrics": {"loss": 0.1}, "none": None}
    save_checkpoint(tmp_path / "new" / "x.safetensors", tensors, record)
    got, got_record = load_checkpoint(tmp_path / "new" / "x.safetensors")
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[k], tensors[k]) and got[k].dtype == tensors[k].dtype for k in tensors)
    assert record.items() <= got_record.items()


def test_tensors_that_share_memory_can_be_saved(tmp_path):
    base = torch.arange(4.0)
    save_checkpoint(tmp_path / "x", {"all": base, "part": base[1:]}, {})
    assert load_checkpoint(tmp_path / "x")[0]["part"].tolist() == [1, 2, 3]


def test_a_full_disk_leaves_the_previous_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"a": torch.zeros(10)}, {"step": 1})
    with disk_of(4096), pytest.raises(DataError, match=r"Cannot write .*What it held before is unchanged"):
        save_checkpoint(path, {"a": torch.zeros(10_000)}, {"step": 2})
    assert load_checkpoint(path)[1]["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="File exists"):
        save_checkpoint(tmp_path / "file" / "x", {}, {})


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path, keep):
    path = tmp_path / "x"
    save_checkpoint(path, {"a": torch.zeros(10)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="truncated"):
        load_checkpoint(path)


def test_missing_and_foreign_files_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "none")
    save_file({"a": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(DataError, match="not the checkpoint of a training"):
        load_checkpoint(tmp_path / "weights")
    save_checkpoint(tmp_path / "later", {}, {"version": 99})
    with pytest.raises(DataError, match="has version 99"):
        load_checkpoint(tmp_path / "later")


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    for name in (".x.1.tmp", ".y.1.tmp", "x"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".y.1.tmp", "x"]
