"""``robopref serve``: a policy server for a bundle. Needs the extra ``deploy`` and nothing else."""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

from robopref.cli.options import read_options
from robopref.errors import ConfigError, MissingExtraError

USAGE = """usage: robopref serve bundle=<bundle> [port=8000] [host=127.0.0.1] [token=...] [candidates=16]
                      [pessimism=1.0] [deadline_ms=...] [fallback=hold|home] [seed=0] [ignore=prompt,...]
                      [audit=<file>.jsonl] [threads=1] [connections=32] [message_mib=16] [verbose=false]

Clients of openpi, and robopref.deploy.client, talk to it. Beyond this machine (host=0.0.0.0) a token is
needed: token=, the variable ROBOPREF_TOKEN, or the one that is made and printed. deadline_ms=0 decides
without a deadline; left out, it is the time that a chunk lasts."""

OPTIONS = {
    "bundle": Path,
    "port": int,
    "host": str,
    "token": str,
    "candidates": int,
    "pessimism": float,
    "deadline_ms": float,
    "fallback": str,
    "seed": int,
    "ignore": list,
    "audit": Path,
    "threads": int,
    "connections": int,
    "message_mib": float,
    "verbose": bool,
}


def serve(arguments: list[str]) -> int:
    """Serve until ctrl-C or SIGTERM."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    options = read_options("serve", arguments, OPTIONS)
    if "bundle" not in options:
        raise ConfigError("serve needs bundle=<folder>, from robopref export.")
    try:
        from robopref.deploy import bundle as bundles
        from robopref.deploy.audit import AuditLog
        from robopref.deploy.selection import Selector
        from robopref.deploy.server import Bounds, PolicyServer
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnxruntime", "msgpack", "websockets"):
            raise
        raise MissingExtraError(
            f"Serving needs {error.name}, which is not installed: pip install 'robopref[deploy]'"
        ) from error
    logging.basicConfig(
        level=logging.INFO if options.get("verbose") else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    bundle = bundles.load(options["bundle"], threads=options.get("threads", 1))
    action, hz = bundle.manifest.action, bundle.manifest.control_hz
    deadline_ms = options.get("deadline_ms", 1e3 * action.execute / hz)
    names = ("candidates", "pessimism", "fallback", "seed")
    chosen = {name: options[name] for name in names if name in options}
    selector = Selector(bundle, deadline_s=deadline_ms / 1e3 if deadline_ms else None, **chosen)
    selector.warm_up()
    gc.freeze()  # what is loaded stays: the collector need not walk through it between two decisions
    bounds = Bounds(
        message_bytes=options.get("message_mib", 16.0) * 2**20,
        connections=options.get("connections", 32),
    )
    audit = None
    if "audit" in options:
        audit = AuditLog(options["audit"], bundle=bundle.fingerprint, seed=selector.seed)
    server = PolicyServer(
        selector,
        host=options.get("host", "127.0.0.1"),
        port=options.get("port", 8000),
        token=options.get("token", os.environ.get("ROBOPREF_TOKEN")),
        ignored=options.get("ignore", []),
        audit=audit,
        bounds=bounds,
    )

    def ready(port: int) -> None:
        ranked = "not ranked" if bundle.scorer is None else "ranked by the scorer"
        limit = f"{deadline_ms:.0f} ms at most" if deadline_ms else "no deadline"
        print(f"{bundle.manifest.task}: {selector.candidates} candidates, {ranked}, {limit}")
        print(f"Observations: {json.dumps({p.name: p.size for p in bundle.manifest.observation})}")
        if server.token is not None and "token" not in options:
            print(f"Token: {server.token}")
        print(f"Serving at ws://{server.host}:{port}", flush=True)

    try:
        asyncio.run(until_terminated(server.run(ready)))
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        if audit is not None:
            audit.close()
    return 0


async def until_terminated(work: Coroutine[None, None, None]) -> None:
    """Await it, and let SIGTERM cancel it, as asyncio does for ctrl-C.

    The exception of :func:`~robopref.training.interruption.end_quietly` strikes amid whatever runs: a
    connection whose last callback it cuts off is then waited for without end.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    earlier = signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(task.cancel))
    try:
        await work
    finally:
        signal.signal(signal.SIGTERM, earlier)
