"""The real command in a process of its own."""

import contextlib
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

ROBOPREF = Path(sys.executable).with_name("robopref")
PATIENCE_S = 180.0


class Server:
    """``robopref label`` on a free port; ``url`` is what it printed."""

    def __init__(self, store, *options, port=0):
        command = [ROBOPREF, "label", f"data={store}", f"port={port}", "open_browser=false", *options]
        self.output = Path(store).with_name(f"server-{time.monotonic_ns()}.txt")
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=self.output.parent
            )
        self.url = self._address()
        self.port = httpx.URL(self.url).port

    def _address(self):
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := re.search(r"Label at (\S+)\n", self.said):
                return found[1]
            assert self.process.poll() is None, self.said
            time.sleep(0.05)
        raise AssertionError(f"the server did not start: {self.said}")

    @property
    def said(self):
        return self.output.read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(20)


def label_all(urls, people):
    """Let people answer at once, on these servers in turn, to the end; return what each was asked."""
    begin = threading.Barrier(people)

    def label(number):
        name = f"person {number}"
        asked = []
        with httpx.Client(base_url=urls[number % len(urls)], timeout=60) as client:
            begin.wait()
            turn = client.get("/api/question", params={"annotator": name}).raise_for_status().json()
            while turn["question"] is not None:
                asked.append(int(turn["question"]["id"].split(".")[2]))
                body = {"annotator": name, "question": turn["question"]["id"], "choice": "left"}
                turn = client.post("/api/answer", json=body).raise_for_status().json()
        return asked

    with ThreadPoolExecutor(people) as pool:
        return list(pool.map(label, range(people)))


@contextlib.contextmanager
def serving(store, *options, **more):
    server = Server(store, *options, **more)
    try:
        yield server
    finally:
        server.kill()
