import json
import subprocess
import sys

import pytest

from robopref.errors import ConfigError, DataError
from robopref.training import metrics
from robopref.training.metrics import RunLog, read_log


@pytest.fixture
def log(tmp_path):
    with RunLog(tmp_path, wandb_mode="disabled") as log:
        yield log


def steps(log):
    return [(line["phase"], line["step"]) for line in read_log(log.path)]


def test_a_line_holds_time_phase_step_and_values(log):
    log.log("train-reward", 100, {"loss": 0.5, "held_out/accuracy": 1})
    (line,) = read_log(log.path)
    assert line["time"] > 1.6e9
    assert {k: v for k, v in line.items() if k != "time"} == {
        "phase": "train-reward",
        "step": 100,
        "loss": 0.5,
        "held_out/accuracy": 1.0,
    }


def test_what_is_not_finite_is_left_out_so_that_every_line_is_json(log):
    log.log("a", 1, {"good": 1.0, "nan": float("nan"), "inf": float("inf")})
    assert set(json.loads(log.path.read_text())) == {"time", "phase", "step", "good"}


def test_lines_are_on_disk_before_the_log_is_closed(log):
    log.log("a", 1, {})
    assert steps(log) == [("a", 1)]


def test_rewinding_drops_later_steps_of_that_phase_alone_and_writing_goes_on(log):
    for phase in ("a", "b"):
        for step in (10, 20, 30):
            log.log(phase, step, {})
    log.rewind("a", 10)
    log.log("a", 20, {})
    assert steps(log) == [("a", 10), ("b", 10), ("b", 20), ("b", 30), ("a", 20)]


def test_a_half_line_at_the_end_is_cut_off_when_the_log_is_opened_again(tmp_path):
    with RunLog(tmp_path, wandb_mode="disabled") as log:
        log.log("a", 1, {})
    with log.path.open("a") as file:
        file.write('{"time": 1, "ph')
    assert steps(log) == [("a", 1)]
    with RunLog(tmp_path, wandb_mode="disabled") as log:
        log.log("a", 2, {})
    assert steps(log) == [("a", 1), ("a", 2)]


def test_a_foreign_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nnot json\n')
    with pytest.raises(DataError, match="line 2, is not JSON"):
        read_log(path)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        RunLog(tmp_path / "file" / "run", wandb_mode="disabled")


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'offline'"):
        RunLog(tmp_path, wandb_mode="ofline")


def test_disabled_does_not_import_wandb(tmp_path):
    code = (
        "import sys; from robopref.training.metrics import RunLog\n"
        f"with RunLog({str(tmp_path)!r}, wandb_mode='disabled') as log: log.log('a', 1, {{'x': 1.0}})\n"
        "print('wandb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_auto_is_online_exactly_where_a_key_is_configured(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert metrics._auto_mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert metrics._auto_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab.example")
    assert metrics._auto_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert metrics._auto_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert metrics._auto_mode() == "offline"


def test_offline_keeps_a_run_in_the_folder_that_a_second_process_continues(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for step in (1, 2):
        with RunLog(tmp_path, wandb_mode="offline", name="try", config={"seed": 3}) as log:
            log.log("fit", step, {"loss": 0.5})
    identity = (tmp_path / "wandb-run-id.txt").read_text().strip()
    files = list((tmp_path / "wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    assert files
    assert all(file.stat().st_size > 0 for file in files)
