"""The wheel in environments of its own: a robot with the extra ``deploy`` alone, and openpi's real client."""

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from robopref.deploy.export import export
from robopref.deploy.gym_robot import GymRobot
from robopref.policies.bc import BehaviourCloning
from robopref.policies.saved import save_policy
from robopref.rewards.gaussian import GaussianReward
from robopref.rewards.saved import save_reward
from robopref.training.rollout import make_environment
from tests.deploy.made import make_bundle
from tests.deploy.running import Served
from tests.test_wheel import wheel

__all__ = ["wheel"]

HERE = Path(sys.executable).parent


@pytest.fixture(scope="module")
def robot(wheel, tmp_path_factory):
    """An environment with robopref[deploy] and nothing more."""
    return environment(tmp_path_factory.mktemp("robot") / "venv", f"{wheel}[deploy]")


def environment(folder, *packages):
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--no-config", "--python", python, *packages]
    subprocess.run(install, check=True)
    return folder / "bin"


def run(python, code, *arguments, cwd):
    done = subprocess.run(
        [python, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_extra_deploy_brings_nothing_of_the_lab(robot, tmp_path):
    listed = subprocess.run(
        ["uv", "pip", "list", "--python", robot / "python", "--format", "freeze"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.split("==")[0].split(" @")[0] for line in listed.stdout.split("\n") if line}
    assert {"robopref", "numpy", "onnxruntime", "msgpack", "websockets"} <= names
    assert len(names) <= 9, names  # onnxruntime brings flatbuffers, protobuf and packaging
    help_text = subprocess.run(
        [robot / "robopref", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "serve" in help_text


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "extra"), [("run", "lab"), ("doctor", "lab"), ("export", "lab")])
def test_a_missing_part_is_one_sentence_that_names_the_extra(robot, verb, extra, tmp_path):
    done = subprocess.run([robot / "robopref", verb], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"\nrobopref {verb}: robopref {verb} needs .* pip install 'robopref\[{extra}\]'\n", done.stderr
    )


@pytest.mark.slow
def test_a_robot_serves_and_asks_without_torch(robot, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", horizon=2)
    with Served(bundle, f"audit={tmp_path / 'audit.jsonl'}", "candidates=4", bin_folder=robot) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=5) as answer:
            assert answer.read() == b"OK\n"
        code = (
            "import sys, numpy as np\n"
            "from robopref.deploy.client import Client\n"
            "from robopref.deploy.loop import Remote, drive\n"
            "from robopref.deploy.manifest import Rules\n"
            "from robopref.deploy.safety import Safety\n"
            "class Robot:\n"
            "    def observe(self):\n"
            "        return {'observation/arm': np.zeros(2), 'observation/goal': np.zeros(1)}, 0.0\n"
            "    def send(self, action): return False\n"
            "    def stop(self): pass\n"
            "with Client(sys.argv[1]) as client: rules = Rules.read(client.metadata)\n"
            "safety = Safety(rules, stale_s=30.0, watchdog_s=60.0)\n"
            "print(drive(Robot(), Remote(lambda: Client(sys.argv[1])), safety, steps=20))\n"
        )
        said = run(robot / "python", code, server.address, cwd=tmp_path)
    assert "steps=20, held=0" in said
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 10


OPENPI = """
import sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from openpi_client.action_chunk_broker import ActionChunkBroker

policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
horizon = policy.get_server_metadata()["action"]["horizon"]
broker = ActionChunkBroker(policy, horizon)
for line in sys.stdin:  # observations come as text, actions go as text
    state = np.array(line.split(), np.float32)
    answer = broker.infer({"observation/state": state, "prompt": "open the drawer"})
    assert answer["actions"].shape == (4,), answer["actions"].shape
    print(*answer["actions"], flush=True)
"""


@pytest.mark.slow
def test_openpi_s_own_client_drives_the_simulator_for_a_thousand_decisions(robot, tmp_path):
    """The package as it is on the index; it imports typing_extensions without asking for it."""
    save_policy(tmp_path / "policy", BehaviourCloning(observation_size=39, action_size=4, hidden=(32,)))
    save_reward(tmp_path / "reward", GaussianReward(observation_size=39, action_size=4, hidden=(32,)))
    spec = {"task": "drawer-open", "control_hz": 80.0}
    export(tmp_path / "policy", tmp_path / "bundle", reward_dir=tmp_path / "reward", spec=spec)
    client = environment(tmp_path / "openpi", "openpi-client==0.1.2", "typing_extensions")
    options = {"horizon": 150, "terminate_on_success": False}
    simulator = GymRobot(make_environment(DRAWER, options), [("observation/state", 39)], seed=0)
    with Served(tmp_path / "bundle", "ignore=prompt", "deadline_ms=0", bin_folder=robot) as server:
        process = subprocess.Popen(
            [client / "python", "-W", "ignore", "-c", OPENPI, str(server.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for step in range(1000):
            seen, _ = simulator.observe()
            process.stdin.write(" ".join(map(str, seen["observation/state"])) + "\n")
            process.stdin.flush()
            action = np.array(process.stdout.readline().split(), np.float32)
            assert action.shape == (4,), f"step {step}"
            if simulator.send(action):
                assert len(simulator.rewards) == 150
                simulator.reset(seed=step)
        process.stdin.close()
        assert process.wait(20) == 0


DRAWER = "robopref.envs:robopref/mw-drawer-open-v0"
