"""A policy server that openpi's clients talk to: WebSocket, msgpack, metadata first, then answer by answer.

It listens on its own machine unless it is given an address, and then wants a token. Messages are bounded,
what cannot be read is refused with a sentence, nothing is unpickled, and no traceback leaves the machine.
"""

import asyncio
import hmac
import http
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from robopref.deploy.audit import AuditLog
from robopref.deploy.codec import MessageError, pack, unpack
from robopref.deploy.selection import Decision, Selector, digits
from robopref.errors import ConfigError, DataError, RoboprefError

logger = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 16
MOST_UNWRITTEN = 100  # decisions of a connection that the audit log may lag behind


def choose_token(host: str, token: str | None) -> str | None:
    """The token that was asked for, a new one, or None on this machine alone.

    Raises:
        ConfigError: It is short, or cannot stand in a header.
    """
    if token is None:
        return None if host in LOOPBACK else secrets.token_urlsafe(24)
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(f"A token must be {SHORTEST_TOKEN} or more ASCII characters without spaces.")
    return token


@dataclass(frozen=True)
class Bounds:
    """What the server puts up with.

    Attributes:
        message_bytes: Longest message; two 224 x 224 images take 0.3 MB.
        connections: Most at once; further ones are answered 503.
        answer_s: Longest time for an answer, waiting for its turn included; then the connection is closed.
        silence_s: Longest time without a request.
        handshake_s: Longest time for the handshake, and for a ping to be answered.
        ping_s: Time between pings, which find out who is gone or sends a frame too slowly.
    """

    message_bytes: int | float = 2**24
    connections: int = 32
    answer_s: float = 10.0
    silence_s: float = 600.0
    handshake_s: float = 10.0
    ping_s: float = 20.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be positive and finite, got {value}")


@dataclass
class PolicyServer:
    """Serves one selector.

    Args:
        selector: Decides; one decision at a time, on a thread of its own. Its deadline counts from when a
            request arrived, waiting for its turn included.
        host, port: Where to listen; port 0 takes any free one.
        token: What clients must send as ``Authorization: Api-Key <token>``; see :func:`choose_token`.
        ignored: Keys that clients may send and that the policy does not use, such as ``prompt``.
        audit: Where decisions are written, after they were answered, and without keeping later ones waiting.
        bounds: What it puts up with.
        on_decision: Told of every decision.
    """

    selector: Selector
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    ignored: Sequence[str] = ()
    audit: AuditLog | None = None
    bounds: Bounds = field(default_factory=Bounds)
    on_decision: Callable[[Decision], None] | None = None

    def __post_init__(self) -> None:
        self.token = choose_token(self.host, self.token)
        clash = set(self.ignored) & set(self.selector.bundle.keys)
        if clash:
            raise ConfigError(f"The policy needs {', '.join(sorted(clash))}, which was to be ignored.")
        self._metadata = pack(self.selector.bundle.metadata(self.ignored))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="robopref-policy")
        self._scribe = ThreadPoolExecutor(1, thread_name_prefix="robopref-audit")
        self._open = 0
        self._stuck = False

    async def run(self, ready: Callable[[int], None] | None = None) -> None:
        """Serve until cancelled.

        Args:
            ready: Called with the port as soon as clients can connect.

        Raises:
            ConfigError: The address is taken or not ours.
        """
        server = await self.start()
        try:
            if ready is not None:
                ready(server.sockets[0].getsockname()[1])
            await server.serve_forever()
        finally:
            server.close()
            await server.wait_closed()
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._scribe.shutdown()

    async def start(self) -> WebSocketServer:
        """Begin to listen.

        Raises:
            ConfigError: The address is taken or not ours.
        """
        bounds = self.bounds
        try:
            return await serve(
                self._serve,
                self.host,
                self.port,
                process_request=self._admit,
                compression=None,
                max_size=int(bounds.message_bytes),
                max_queue=2,
                open_timeout=bounds.handshake_s,
                close_timeout=bounds.handshake_s,
                ping_interval=bounds.ping_s,
                ping_timeout=bounds.handshake_s,
                server_header=None,
                logger=logging.getLogger("robopref.deploy.websockets"),
            )
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"Cannot listen on host={self.host} port={self.port}: {reason}.") from error

    # --- one connection -----------------------------------------------------------------------------------

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer /healthz, and turn away who has no token or comes when all places are taken."""
        if request.path == "/healthz":
            if self._stuck or self.selector.overdue_s() > self.bounds.answer_s:
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "the policy hangs\n")
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self.token is not None:
            got = request.headers.get_all("Authorization")
            wanted = f"Api-Key {self.token}".encode()
            if len(got) != 1 or not hmac.compare_digest(got[0].encode(errors="replace"), wanted):
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a token is needed\n")
        if self._open >= self.bounds.connections:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        self._open += 1
        try:
            await connection.send(self._metadata)
            await self._answer(connection)
        except ConnectionClosed:
            pass  # the client left, or broke the protocol and was told so by websockets
        except (RoboprefError, MessageError) as error:
            logger.warning("Refused %s: %s", connection.remote_address, error)
            await _refuse(connection, str(error))
        except TimeoutError:
            logger.warning("Closed %s: silent for %s s", connection.remote_address, self.bounds.silence_s)
            await connection.close(CloseCode.GOING_AWAY, "no request for too long")
        except Exception:
            logger.exception("The policy failed for %s", connection.remote_address)
            await _refuse(connection, "The policy failed; the server's own log says why.")
        finally:
            self._open -= 1

    async def _answer(self, connection: ServerConnection) -> None:
        """Answer requests until the client leaves."""
        previous_ms: float | None = None
        index = 0
        unwritten: deque[Future[None]] = deque()
        while True:
            async with asyncio.timeout(self.bounds.silence_s):
                frame = await connection.recv()
            begun = time.perf_counter()
            if isinstance(frame, str):
                raise DataError("A request is a binary frame of msgpack; this was text.")
            decision = await self._decide(frame, index, begun)
            taken = 1e3 * (time.perf_counter() - begun)
            await connection.send(pack(_result(decision, taken, previous_ms)))
            previous_ms = 1e3 * (time.perf_counter() - begun)
            index += 1
            if self.audit is not None:
                unwritten.append(self._scribe.submit(self.audit.write, decision))
                unwritten[-1].add_done_callback(_log_failure)
                while unwritten and unwritten[0].done():
                    if unwritten.popleft().exception() is not None:  # logged, with the path, as it happened
                        raise DataError("The audit log cannot be written; the server's own log says why.")
                if len(unwritten) > MOST_UNWRITTEN:
                    raise DataError("The audit log cannot be written as fast as decisions are asked for.")
            if self.on_decision is not None:
                self.on_decision(decision)

    async def _decide(self, frame: bytes, index: int, begun: float) -> Decision:
        """Decide on the policy's thread, so that pings are answered meanwhile."""
        if self._stuck:
            raise DataError("The policy hangs: it still works at a request that was given up.")
        work = self._thread.submit(self._work, frame, index, begun)
        try:
            async with asyncio.timeout(self.bounds.answer_s):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            if not work.cancel():  # what has not begun never will; what has cannot be ended
                self._stuck = True
                work.add_done_callback(self._unstuck)
            raise DataError(f"No answer within {self.bounds.answer_s:g} s.") from None

    def _work(self, frame: bytes, index: int, begun: float) -> Decision:
        observation = unpack(frame)
        if not isinstance(observation, dict):
            raise DataError(f"An observation is a map of arrays, got a {type(observation).__name__}.")
        flat = self.selector.bundle.flatten(observation, self.ignored)
        limit = self.selector.deadline_s
        left = None if limit is None else limit - (time.perf_counter() - begun)
        return self.selector.decide(flat, index=index, deadline_s=left)

    def _unstuck(self, work: Future[Decision]) -> None:
        self._stuck = False
        if not work.cancelled() and work.exception() is not None:
            logger.error("A late decision failed: %s", work.exception())


def _log_failure(written: Future[None]) -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        logger.error("A decision was not written to the audit log: %s", error)


def _result(decision: Decision, taken_ms: float, previous_ms: float | None) -> Mapping[str, Any]:
    """What a client gets. All but the actions are lists and numbers: openpi's broker cuts arrays by time."""
    timing = {"infer_ms": taken_ms}
    if previous_ms is not None:
        timing["prev_total_ms"] = previous_ms
    return {
        "actions": decision.actions,
        "chosen": decision.chosen,
        "fallback": decision.fallback,
        "candidates": len(decision.candidates),
        "refused": sum(reason is not None for reason in decision.refused),
        "scores": None if decision.value is None else digits(decision.value),
        "score_parts": decision.score_parts(),
        "policy_timing": {f"{name}_ms": ms for name, ms in decision.milliseconds.items()},
        "server_timing": timing,
    }


async def _refuse(connection: ServerConnection, sentence: str) -> None:
    """openpi's form of an error: a text frame, then the end."""
    try:
        await connection.send(sentence)
        await connection.close(CloseCode.INTERNAL_ERROR, "refused; the last frame says why")
    except ConnectionClosed:
        pass
