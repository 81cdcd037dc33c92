"""The product as its user meets it: commands in a terminal, their files, their sentences and exit codes."""

import html
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from robopref.cli import VERBS
from robopref.data.label_store import LabelStore
from robopref.envs.rendering import gl_backend

ROBOPREF = Path(sys.executable).with_name("robopref")
SMALL = (
    "episodes=8",
    "alignment.sources=[window-open]",
    "training.reward.steps=40",
    "training.policy.steps=120",
    "training.checkpoint_every=10",
    "training.log_every=5",
    "training.held_out=0.4",
    "training.evaluation.episodes=2",
    "training.evaluation.record=1",
    "env.options.horizon=60",
    "env.view.width=64",
    "env.view.height=64",
    "film_coupling=false",
    "wandb.mode=disabled",
    "workers=0",
    "threads=1",
    "device=cpu",
)


def start(folder, *arguments, **options):
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(folder)}
    return subprocess.Popen(
        [ROBOPREF, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def robopref(folder, *arguments):
    child = start(folder, *arguments)
    said, _ = child.communicate()
    return child.returncode, said


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with a finished small run in ``first``, whose collected episodes the other tests share."""
    folder = tmp_path_factory.mktemp("lab")
    code, said = robopref(folder, "run", *SMALL, "out=first")
    assert code == 0, said
    return folder, said


def phases(folder):
    return {p["name"]: p["skipped"] for p in json.loads((folder / "run.json").read_text())["phases"]}


def weights(folder):
    return {name: tensor.tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def results(folder):
    evaluation = json.loads((folder / "evaluation" / "PEARL.json").read_text())
    return weights(folder / "reward"), weights(folder / "policy"), evaluation["returns"]


def test_a_run_goes_from_data_to_report(lab):
    folder, said = lab
    first = folder / "first"
    assert json.loads((first / "run.json").read_text())["status"] == "complete"
    assert [name.split("/")[0] for name in phases(first)] == [
        *("collect", "label", "collect", "align", "train-reward"),
        *("train-policy", "evaluate") * 3,
    ]
    page = (first / "report.html").read_text()
    assert "drawer-open" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "first/report.html" in said
    assert "95 % interval" in said


def test_the_same_command_again_repeats_nothing(lab):
    folder, _ = lab
    before = results(folder / "first")
    code, _ = robopref(folder, "run", *SMALL, "out=first")
    assert code == 0
    assert all(phases(folder / "first").values())
    assert results(folder / "first") == before


def test_the_coupling_is_filmed_where_it_is_asked_for_and_nothing_is_learned_anew(lab):
    folder, _ = lab
    without = (folder / "first" / "report.html").read_text()
    assert "this run filmed none" in without
    before = results(folder / "first")
    code, said = robopref(folder, "run", *SMALL, "film_coupling=true", "out=first")
    assert code == 0, said
    skipped = phases(folder / "first")
    assert [name for name, was in skipped.items() if not was] == ["film-coupling"]
    assert results(folder / "first") == before
    missing = json.loads((folder / "first" / "alignment" / "clips.json").read_text())["missing"]
    page = html.unescape((folder / "first" / "report.html").read_text())
    assert all(reason in page for reason in missing)
    if gl_backend().name is None:
        assert missing
        pytest.skip(f"the films cannot be checked here: {gl_backend().reason}")
    assert not missing
    assert page.count("<image") == without.count("<image") + 20


@pytest.mark.parametrize(("phase", "product"), [("train-reward", "reward"), ("train-policy", "policy")])
def test_a_run_killed_in_training_ends_with_the_numbers_of_an_uninterrupted_one(lab, phase, product):
    folder, _ = lab
    killed = folder / f"killed-in-{phase}"
    child = start(folder, "run", *SMALL, f"out={killed.name}")
    while not (killed / product / "last.safetensors").exists():
        assert child.poll() is None
        time.sleep(0.005)
    child.kill()
    child.communicate()
    assert json.loads((killed / "phases" / f"{phase}.json").read_text())["status"] == "started"
    code, said = robopref(folder, "run", *SMALL, f"out={killed.name}")
    assert code == 0, said
    assert results(killed) == results(folder / "first")


def test_ctrl_c_ends_with_a_sentence_and_code_130(lab):
    folder, _ = lab
    long = [s for s in SMALL if "policy.steps" not in s]
    child = start(folder, "run", *long, "training.policy.steps=1000000", "out=stopped")
    while not (folder / "stopped" / "policy" / "last.safetensors").exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "The same command goes on from" in said
    assert (
        json.loads((folder / "stopped" / "run.json").read_text())["status"] == "interrupted in train-policy"
    )


def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_lost(lab):
    folder, _ = lab
    before = results(folder / "first")
    code, said = robopref(folder, "run", *SMALL, "reward=bradley_terry", "out=first")
    assert code == 1
    assert "made with other settings" in said
    assert "Traceback" not in said
    assert results(folder / "first") == before


def test_parts_combine_freely_and_a_sweep_makes_a_folder_for_each_seed(lab):
    folder, _ = lab
    code, said = robopref(
        folder,
        "run",
        "-m",
        *SMALL,
        "reward=bradley_terry",
        "policy=bc_top",
        "alignment=wasserstein",
        "seed=0,1",
    )
    assert code == 0, said
    runs = sorted((folder / "outputs" / "pearl" / "drawer-open").glob("seed*"))
    assert [run.name.split("-")[0] for run in runs] == ["seed0", "seed1"]
    code, said = robopref(folder, "report", "outputs/pearl", "out=both.html")
    assert code == 0, said
    assert "bradley" in said
    assert (folder / "both.html").exists()


def test_each_phase_is_a_verb_that_starts_from_files(lab):
    folder, _ = lab
    shared = ("wandb.mode=disabled", "threads=1", "device=cpu")
    here = ("env.options.horizon=60", "workers=0")
    fits = [s for s in SMALL if s.startswith("training")]
    stores = ("window-open", "drawer-open")
    chain = [
        *(("collect", *shared, *here, "episodes=8", f"env.task={t}", f"data=store/{t}") for t in stores),
        ("label-scripted", *shared, "data=store/window-open", "out=hand"),
        ("align", *shared, "sources=[store/window-open]", "target=store/drawer-open", "out=hand"),
        ("train-reward", *shared, *fits, "data=store/drawer-open", "source=transfer", "out=hand"),
        ("train-policy", *shared, *fits, "data=store/drawer-open", "rewards=hand/reward", "out=hand"),
        ("evaluate", *shared, *here, *fits, "policy_dir=hand/policy", "reward_dir=hand/reward", "out=hand"),
        ("report", "hand"),
    ]
    for command in chain:
        code, said = robopref(folder, *command)
        assert code == 0, f"{command}: {said}"
    assert (folder / "hand" / "report.html").exists()


def test_a_script_is_the_same_as_its_verb():
    scripts = Path(__file__).parent.parent.parent / "scripts"
    assert {path.stem for path in scripts.glob("*.py")} == set(VERBS)
    for verb in ("run", "doctor", "label-scripted"):
        answers = [
            subprocess.run([*command, "nonsense=1"], capture_output=True, text=True, check=False)
            for command in ([sys.executable, scripts / f"{verb}.py"], [ROBOPREF, verb])
        ]
        assert answers[0].returncode == answers[1].returncode == 1
        assert answers[0].stderr == answers[1].stderr != ""


def test_a_disk_that_fills_up_ends_with_a_sentence_and_the_run_goes_on_when_there_is_room(lab):
    folder, _ = lab

    def small_disk():  # files beyond this size cannot be written, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    child = start(folder, "run", *SMALL, "data_dir=scarce", "out=scarce-run", preexec_fn=small_disk)
    said, _ = child.communicate()
    assert child.returncode == 1
    assert "Traceback" not in said
    assert "scarce/window-open" in said
    code, said = robopref(folder, "run", *SMALL, "data_dir=scarce", "out=scarce-run")
    assert code == 0, said
    assert results(folder / "scarce-run") == results(folder / "first")


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", ["collect/window-open", "label/", "align", "train-reward", "evaluate/PEARL"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_stopped_in_any_phase_goes_on_and_ends_the_same(lab, phase, number):
    folder, _ = lab
    name = f"stopped-in-{phase.replace('/', '-')}-{number}"
    arguments = ("run", *SMALL, f"out={name}", f"data_dir={name}-data")
    child = start(folder, *arguments)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(phase):
            break
    child.send_signal(number)
    said, _ = child.communicate(timeout=120)
    assert child.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number], said
    assert "Traceback" not in said
    code, said = robopref(folder, *arguments)
    assert code == 0, said
    assert results(folder / name) == results(folder / "first")


@pytest.mark.slow
def test_a_sweep_goes_through_the_cluster_launcher(lab):
    folder, _ = lab
    launcher = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10")
    code, said = robopref(folder, "run", "-m", *launcher, *SMALL, "seed=0,1", "policy=bc")
    assert code == 0, said
    finished = [
        json.loads((run / "run.json").read_text())
        for run in (folder / "outputs" / "pearl" / "drawer-open").glob("seed*")
    ]
    assert {run["seed"] for run in finished if run["status"] == "complete"} >= {0, 1}


@pytest.mark.slow
def test_pearl_stands_beside_policies_of_rewards_oracles_and_labels_alone(tmp_path):
    words = ("experiment=pearl_baselines", "training.clone.steps=20", "training.preferences.steps=10")
    code, said = robopref(tmp_path, "run", *words, *SMALL, "out=all")
    assert code == 0, said
    tried = {path.stem for path in (tmp_path / "all" / "evaluation").glob("*.json")}
    learners = {f"{name}{of}" for name in ("iql", "rebrac") for of in ("", "-oracle-labels", "-true-reward")}
    clones = {"behaviour-cloning", "best-tenth", "best-quarter-oracle-labels"}
    assert {name for name in tried if not name.startswith("rollout-")} == learners | clones | {
        "PEARL",
        "collected-data",
        "cpl",
        "ipl",
    }
    code, said = robopref(tmp_path, "run", *words, *SMALL, "out=all")
    assert code == 0, said
    assert all(phases(tmp_path / "all").values())


@pytest.mark.slow
def test_a_run_asks_for_labels_of_its_target_once_and_keeps_them(lab):
    folder, _ = lab
    asked = {}
    for query in ("information_gain", "random"):
        words = ("anchor_pairs=3", f"anchor_query={query}", f"out=asked-{query}")
        code, said = robopref(folder, "run", *SMALL, *words)
        assert code == 0, said
        run = folder / f"asked-{query}"
        with LabelStore(f"sqlite:///{run / 'labels' / 'drawer-open.sqlite'}") as labels:
            given = labels.preferences(source="teacher")
        asked[query] = set(zip(given.a.episode.tolist(), given.b.episode.tolist(), strict=True))
        assert len(asked[query]) == 3
        record = json.loads((run / "alignment" / "record.json").read_text())
        assert record["settings"]["anchors"] == 3
        code, said = robopref(folder, "run", *SMALL, *words)
        assert code == 0, said
        assert all(phases(run).values())
    assert asked["information_gain"] != asked["random"]


def test_labels_and_rewards_are_not_taken_for_each_other(tmp_path):
    for word in ("baselines.iql.rewards=labels", "policy@baselines.iql.policy=ipl"):
        code, said = robopref(tmp_path, "run", *SMALL, word)
        assert code == 1, said
        assert "needs rewards=" in said
