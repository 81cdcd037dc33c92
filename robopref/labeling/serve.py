"""Starting the labelling server: address, token, browser, and a clean end."""

import errno
import os
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from uvicorn import Config, Server

from robopref.errors import ConfigError
from robopref.labeling.guard import LOOPBACK

SHORTEST_TOKEN = 16
_PORTS_TRIED = 200


def choose_token(host: str, token: str | None) -> str | None:
    """Return the token of a server: the one that was asked for, a new one, or None on this machine alone.

    Raises:
        ConfigError: The token is short or cannot stand in a cookie.
    """
    if token is None:
        return None if host in LOOPBACK else secrets.token_urlsafe(24)
    fits = token.isascii() and all(letter.isalnum() or letter in "-_.~" for letter in token)
    if len(token) < SHORTEST_TOKEN or not fits:
        raise ConfigError(
            f"token must be {SHORTEST_TOKEN} or more letters, digits, '-', '_', '.' and '~'. "
            "Without token=, a good one is made."
        )
    return token


def bind(host: str, port: int) -> socket.socket:
    """Take a port.

    Raises:
        ConfigError: Another program has it (the next free one is named), or the address is not ours.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port must lie between 0 (any free one) and 65535, got {port}.")
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {port} is taken by another program.{_next_free(host, port)}") from error
        reason = error.strerror or str(error)
        raise ConfigError(f"Cannot listen on host={host} port={port}: {reason}.") from error


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen(128)
    except OSError:
        taken.close()
        raise
    return taken


def _next_free(host: str, port: int) -> str:
    for candidate in range(port + 1, min(port + _PORTS_TRIED, 65536)):
        try:
            _bound(host, candidate).close()
        except OSError:
            continue
        return f" Free is: port={candidate}"
    return " port=0 takes any free one."


def address(taken: socket.socket, token: str | None) -> str:
    """Return what to open in a browser."""
    host, port = taken.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def serve(app: FastAPI, taken: socket.socket, url: str, *, open_browser: bool) -> None:
    """Serve until ctrl-C or SIGTERM; what was answered is stored long before."""
    server = _QuietServer(
        Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=16 * 1024,
        )
    )
    threading.Thread(target=_announce, args=(server, url, open_browser), daemon=True).start()
    with taken:
        server.run(sockets=[taken])


class _QuietServer(Server):
    """Ends without raising the signal that ended it a second time: ctrl-C is how this server is left."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let those go who wait for a clip, then end."""
        self.config.app.state.ending.set()  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take ctrl-C and SIGTERM as a wish to end."""
        import signal

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self.handle_exit) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _announce(server: Server, url: str, open_browser: bool) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.02)
    print(f"Label at {url}", flush=True)  # whole, so that it can be clicked: a console may break lines
    print("Every answer is stored at once. End with ctrl-C; the same command goes on from there.", flush=True)
    if open_browser and _has_display():
        webbrowser.open(url)


def _has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
