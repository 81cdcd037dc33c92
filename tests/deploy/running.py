"""A policy server in a thread of this process, and raw connections to be rude with."""

import asyncio
import contextlib
import threading
import urllib.request

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

    @contextlib.contextmanager
    def rude(self, **options):
        """A raw connection that has read the metadata."""
        with connect(self.address, compression=None, max_size=None, **options) as connection:
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
