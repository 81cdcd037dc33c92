"""A policy server in a thread of this process or in one of its own, and raw connections to be rude with."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

from robopref.deploy.client import Client
from robopref.deploy.codec import unpack
from robopref.deploy.server import PolicyServer
from tests.deploy.made import seen


class Running:
    """A server on a free port; use it in a ``with`` block."""

    def __init__(self, selector, **options):
        self.server = PolicyServer(selector, port=0, **options)
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self.server.run(self._listening))
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._ready.set()

    def _listening(self, port):
        self.port = port
        self._ready.set()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)

    @property
    def address(self):
        return f"ws://127.0.0.1:{self.port}"

    def client(self, **options):
        return Client(self.address, **options)

    def rude(self, **options):
        """A raw connection that has read the metadata."""
        return rude(self.address, **options)


class Served:
    """``robopref serve`` in a process of its own, ended at the end of the block."""

    def __init__(self, bundle, *options, bin_folder=Path(sys.executable).parent):
        self.command = [bin_folder / "robopref", "serve", f"bundle={bundle}", "port=0", *options]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"Serving at (ws://\S+:(\d+))", line):
                self.address, self.port = found[1], int(found[2])
                return self
        raise AssertionError("the server did not start")

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(20) in (0, 143, -15)

    def resident_mib(self):
        """Memory that it holds now; a peak may be older."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def rude(address, **options):
    """A raw connection that has read the metadata."""
    with connect(address, compression=None, max_size=None, **options) as connection:
        assert "task" in unpack(connection.recv(timeout=10))
        yield connection


def healthz(running):
    """Status and body of the health check."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/healthz", timeout=5) as answer:
        return answer.status, answer.read()


def still_serves(running):
    """Whether it answers one more client; of a bundle whose chunks are four actions."""
    with running.client() as client:
        return client.infer(seen(0.5))["actions"].shape == (4, 2)
