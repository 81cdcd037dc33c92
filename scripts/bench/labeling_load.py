"""Many annotators at once: how long an answer takes, and whether one is lost or a pair is handed out twice.

    python scripts/bench/labeling_load.py --annotators 20 --seconds 60

A real server is started on made-up episodes; threads ask and answer over HTTP, each with a pause between two
answers (one second is a hurried person; from half to one and a half times that, at random, since people do
not answer in step: ``--together`` lets them). The server makes the clips of all pairs meanwhile, as it does
for people. Afterwards the label store is compared with what was acknowledged.

The times hold what the annotators' own process takes, which runs beside the server.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np

from robopref.data import Provenance, Trajectory, TrajectoryStore
from robopref.data.label_store import LabelStore


def main() -> None:
    """Start the server, let everybody answer, print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotators", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between an answer and the next")
    parser.add_argument("--together", action="store_true", help="all answer in the same moment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = made_store(Path(folder) / "store")
        with Served(path, "pairs=5000", "shared=0", "segment_length=5") as server:
            before, spent = os.getloadavg()[0], server.cpu_s()
            people = [
                Annotator(i, server.url, options.pause, spread=0.0 if options.together else 0.5)
                for i in range(options.annotators)
            ]
            until = time.monotonic() + options.seconds
            threads = [threading.Thread(target=person.label, args=(until,)) for person in people]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            spent = server.cpu_s() - spent
        report(path, people, before, spent)


class Served:
    """``robopref label`` in a process of its own, at ``url``."""

    def __init__(self, store: Path, *options: str):
        robopref = Path(sys.executable).with_name("robopref")
        command = [
            robopref,
            "label",
            f"data={store}",
            "port=0",
            "open_browser=false",
            *options,
        ]
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Served":
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("Label at "):
                self.url = line.split()[2]
                return self
        raise RuntimeError("the server did not start")

    def cpu_s(self) -> float:
        """Return the processor time that the server took so far, without what makes clips; 0 beyond Linux."""
        file = Path(f"/proc/{self.process.pid}/stat")
        if not file.exists():
            return 0.0
        user, system = file.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class Annotator:
    """One scripted annotator, and what the server said to them."""

    def __init__(self, number: int, url: str, pause: float, spread: float):
        self.name, self.url = f"annotator {number}", url
        self.pauses = np.random.default_rng(number).uniform(
            pause * (1 - spread), pause * (1 + spread), 10_000
        )
        self.times: list[float] = []
        self.acknowledged: list[str] = []

    def label(self, until: float) -> None:
        """Answer until the time is up."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            turn = client.get("/api/question", params={"annotator": self.name}).raise_for_status().json()
            for pause in self.pauses:
                if time.monotonic() > until or turn["question"] is None:
                    return
                time.sleep(pause)
                answer = {"annotator": self.name, "question": turn["question"]["id"], "choice": "left"}
                started = time.perf_counter()
                turn = client.post("/api/answer", json=answer).raise_for_status().json()
                self.times.append(time.perf_counter() - started)
                self.acknowledged.append(answer["question"])


def report(path: Path, people: list[Annotator], load: float, spent: float) -> None:
    """Compare what was acknowledged with what is stored, and print the times."""
    with TrajectoryStore.open(path) as store, LabelStore.beside(store) as labels:
        stored = list(labels.judgements().values())
    uids = {judgement.uid for judgement in stored}
    lost = sum(uid not in uids for person in people for uid in person.acknowledged)
    first = [j.uid.split(".")[2] for j in stored if j.uid.split(".")[3] in ("new", "random")]
    times = 1000 * np.concatenate([person.times for person in people])
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    print(
        f"{len(people)} annotators, {len(times)} answers, load average {load:.1f} on {os.cpu_count()} cores"
    )
    print(f"ms an answer takes: median {p50:.1f}, 95 % {p95:.1f}, 99 % {p99:.1f}, most {times.max():.0f}")
    print(f"{1000 * spent / len(times):.1f} ms of them the server's processor time, of one core")
    print(f"{lost} acknowledged answers lost, {len(first) - len(set(first))} pairs asked of two people")


def made_store(path: Path, episodes: int = 60, length: int = 40) -> Path:
    """Write episodes that nothing can replay: nobody looks at them."""
    with TrajectoryStore.create(
        path, observation_size=2, action_size=2, keypoints=[], control_hz=20.0
    ) as store:
        for episode in range(episodes):
            steps = np.arange(length + 1.0)
            store.append(
                Trajectory(
                    observations=np.stack([steps, steps + episode], axis=1),
                    actions=np.full((length, 2), 0.01 * episode),
                    rewards=np.full(length, float(episode)),
                    successes=np.zeros(length, bool),
                    keypoints={},
                    terminated=False,
                    provenance=Provenance("toy", "nowhere:toy-v0", episode, "made", {}, "", {}),
                )
            )
    return path


if __name__ == "__main__":
    main()
