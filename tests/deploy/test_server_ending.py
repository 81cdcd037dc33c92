"""SIGTERM ends a server between two callbacks, so that no connection is waited for without end."""

import asyncio
import contextlib
import signal
import threading

import pytest

from robopref.cli.serve import until_terminated
from robopref.deploy.client import Client, ServerError
from tests.deploy.made import make_bundle, seen
from tests.deploy.running import Served


def test_sigterm_lets_the_callback_in_hand_come_to_its_end():
    reached = []

    async def serving():
        def callback():
            signal.raise_signal(signal.SIGTERM)
            reached.append("the end of the callback")

        asyncio.get_running_loop().call_soon(callback)
        try:
            await asyncio.sleep(60)
        finally:
            reached.append("cancelled")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(until_terminated(serving()))
    assert reached == ["the end of the callback", "cancelled"]


def test_the_earlier_handler_of_sigterm_is_back_afterwards():
    earlier = signal.getsignal(signal.SIGTERM)
    asyncio.run(until_terminated(asyncio.sleep(0)))
    assert signal.getsignal(signal.SIGTERM) is earlier


def test_a_server_that_is_being_talked_to_ends_at_sigterm(tmp_path):
    server = Served(make_bundle(tmp_path / "b", horizon=4)).__enter__()
    answered = threading.Event()

    def talk():
        while server.process.poll() is None:
            with contextlib.suppress(ServerError):  # as the server goes
                with Client(server.address) as client:
                    client.infer(seen())
                answered.set()

    talking = threading.Thread(target=talk, daemon=True)
    talking.start()
    assert answered.wait(20)
    server.process.terminate()
    assert server.process.wait(10) == 128 + signal.SIGTERM
    talking.join(10)
    assert not talking.is_alive()
