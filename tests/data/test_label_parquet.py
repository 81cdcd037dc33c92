"""Labels in a Parquet file: all of them come back, once, and nothing else is taken for them."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robopref.data.label_store import LabelStore
from robopref.errors import DataError
from tests.data.judgements import DATA, judgement, many, same


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'labels.sqlite'}"


@pytest.fixture
def exported(url: str, tmp_path: Path) -> Callable[[], Path]:
    def export() -> Path:
        with LabelStore(url) as labels:
            first, *_ = labels.add(
                [judgement(i, answer=x) for i, x in enumerate(["a", "skip", 0.25])], **DATA
            )
            labels.add_preferences(many(50), source="teacher", annotator="oracle", **DATA)
            labels.retract(first)
            assert labels.export_parquet(tmp_path / "labels.parquet") == 53
        return tmp_path / "labels.parquet"

    return export


def test_parquet_carries_everything_to_another_store_once(url, exported, tmp_path):
    path = exported()
    with LabelStore(url) as here, LabelStore(f"sqlite:///{tmp_path / 'there.sqlite'}") as there:
        assert there.import_parquet(path) == 53
        assert there.import_parquet(path) == 0
        assert same(there.preferences(), here.preferences())
        assert [*there.judgements().values()] == [*here.judgements().values()]
        assert there.count() == 52
        assert here.import_parquet(path) == 0


def test_a_parquet_file_says_what_it_is_and_of_which_data(exported):
    about = pq.read_schema(exported()).metadata[b"robopref"].decode()
    assert '"format": "robopref-labels", "version": 2' in about
    assert f'"episodes": 10, "fingerprint": "{"f" * 64}"' in about


def test_a_parquet_file_of_other_data_adds_nothing(exported, tmp_path):
    path = exported()
    with LabelStore(f"sqlite:///{tmp_path / 'there.sqlite'}") as there:
        there.add([judgement(0)], data_fingerprint="0" * 64, episodes=10)
        with pytest.raises(DataError, match="holds labels of other data"):
            there.import_parquet(path)
        assert there.count() == 1


def test_a_damaged_or_foreign_parquet_file_is_a_sentence(exported, tmp_path):
    path = exported()
    table = pq.read_table(path)
    with LabelStore(f"sqlite:///{tmp_path / 'there.sqlite'}") as there:
        with pytest.raises(DataError, match="There is no file"):
            there.import_parquet(tmp_path / "nowhere.parquet")
        (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DataError, match="no Parquet file, or it is damaged"):
            there.import_parquet(tmp_path / "cut.parquet")
        for changed, sentence in (
            (pa.table({"x": [1]}), "not one of robopref's labels"),
            (
                table.replace_schema_metadata({"robopref": '{"format": "robopref-labels", "version": 9}'}),
                "holds",
            ),
            (table.drop_columns(["note"]), "columns are not those"),
            (table.set_column(9, table.schema.field(9), pa.array([2.0] * 53)), "row 0: .*confidence"),
        ):
            pq.write_table(changed, tmp_path / "changed.parquet")
            with pytest.raises(DataError, match=sentence):
                there.import_parquet(tmp_path / "changed.parquet")
        assert there.count() == 0
