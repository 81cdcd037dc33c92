"""What stands between the network and the application: who may ask, what they may send, what leaves.

- Without a token only this machine may ask, under its own names (which defeats DNS rebinding).
- With one, every request must carry it: in a cookie, which the address that is printed sets, or a header.
  A person's own token lets in as well, but under that person's name alone.
- What changes something must come from a page of this server, as JSON; so must, as far as the browser says
  whose page asks, every question and every clip, since to ask takes a lease. A link from elsewhere opens
  the page, which then asks for nothing before the person says so.
- A request's body is bounded, a mistake is answered without its traceback, and every answer carries a
  strict content security policy.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from robopref.data.label_tokens import AnnotatorTokens
from robopref.errors import DataError
from robopref.labeling.refusals import OPEN_PARTS, said, wants_page

COOKIE = "robopref_token"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
PAGES = frozenset({"/", "/quality", "/admin"})  # which a person opens by an address
MAX_BODY = 16 * 1024
BODY_TIMEOUT_S = 10.0
AWAY = "The label store cannot be read, so no token can be looked up. The server's terminal says why."
MISTAKE = "The server made a mistake; its terminal says more. Nothing that was stored is lost."

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Visitor:
    """Who sent a request, as far as its token says.

    Attributes:
        annotator: The name that the token is bound to; None for any.
        admin: Whether pages about all annotators may be seen.
        token: What to leave as a cookie; None where there is none to leave.
    """

    annotator: str | None
    admin: bool
    token: str | None = None


class Refusal(Exception):
    """A request that is not let in."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Guard:
    """ASGI middleware.

    Args:
        app: What is guarded.
        token: What every request must carry; None lets in whoever uses a name of this machine.
        annotators: Tokens that let in one person each, beside ``token``.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, annotators: AnnotatorTokens | None = None):
        self.app = app
        self.token = token
        self.annotators = annotators

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        visitor: Visitor | None = None
        started = False

        async def dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = dict(HEADERS)
                if visitor is not None and visitor.token is not None:
                    own["set-cookie"] = f"{COOKIE}={visitor.token}; Path=/; HttpOnly; SameSite=Strict"
                there = {name for name, _ in message["headers"]}
                if b"cache-control" not in there:
                    own["cache-control"] = "no-store"
                extra = [(name.encode(), value.encode()) for name, value in own.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        as_page = wants_page(scope["path"], headers.get("accept", ""))
        try:
            visitor = await self._let_in(scope, headers)
            scope.setdefault("state", {})["visitor"] = visitor
            self._check_origin(scope, headers)
            await self.app(scope, await _bounded(headers, receive), dressed)
        except Refusal as refusal:
            await _refuse(dressed, refusal, as_page=as_page, let_in=visitor is not None)
        except Exception:
            if started:
                raise
            logging.getLogger(__name__).exception("%s %s failed", scope["method"], scope["path"])
            await _refuse(dressed, Refusal(500, MISTAKE), as_page=as_page, let_in=visitor is not None)

    async def _let_in(self, scope: Scope, headers: dict[str, str]) -> Visitor:
        """Check the host or the token; return whose it is."""
        if scope["method"] == "GET" and scope["path"] in OPEN_PARTS:
            return Visitor(None, admin=False)
        if self.token is None:
            if _host(headers.get("host", "")) not in LOOPBACK:
                raise Refusal(403, "This server answers only to 127.0.0.1 and localhost.")
            return Visitor(None, admin=True)
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] == "GET" and scope["path"] in PAGES and asked:
            visitor = await self._whose(asked)
            if visitor is not None:
                return replace(visitor, token=asked)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        for shown in (_cookie(headers), bearer.strip() if kind.lower() == "bearer" else ""):
            visitor = await self._whose(shown) if shown else None
            if visitor is not None:
                return visitor
        raise Refusal(
            401,
            "This page needs the token that the server printed: open the address with ?token=. "
            "The person who runs the study can send it again.",
        )

    async def _whose(self, shown: str) -> Visitor | None:
        if secrets.compare_digest(shown.encode(), (self.token or "").encode()):
            return Visitor(None, admin=True)
        if self.annotators is None:
            return None
        try:
            name = await asyncio.to_thread(self.annotators.who, shown)
        except DataError as error:  # which names the store: not for people that are not let in yet
            logging.getLogger(__name__).warning("No token can be looked up: %s", error)
            raise Refusal(503, AWAY) from error
        return None if name is None else Visitor(name, admin=False)

    def _check_origin(self, scope: Scope, headers: dict[str, str]) -> None:
        """Refuse what another site's page may have sent in a person's name."""
        of_pages = scope["method"] not in ("GET", "HEAD") or scope["path"].startswith(("/api/", "/clips/"))
        if of_pages and not comes_from_here(headers):
            raise Refusal(403, "This request comes from a page of another site.")
        if scope["method"] in ("GET", "HEAD"):
            return
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host", ""):
            raise Refusal(403, "This request comes from a page of another site.")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "Send JSON, with content-type application/json.")


def comes_from_here(headers: Mapping[str, str]) -> bool:
    """Return whether a page of this server, an address or a program asks, as far as the browser says."""
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


async def _bounded(headers: dict[str, str], receive: Receive) -> Receive:
    """Read the whole body, which must be small and come soon; return what hands it on."""
    if headers.get("content-length", "0").isdecimal() and int(headers.get("content-length", "0")) > MAX_BODY:
        raise Refusal(413, f"A request may carry {MAX_BODY} bytes at most.")
    parts: list[Message] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while not parts or parts[-1].get("more_body", False):
                parts.append(await receive())
                size += len(parts[-1].get("body", b""))
                if size > MAX_BODY:
                    raise Refusal(413, f"A request may carry {MAX_BODY} bytes at most.")
    except TimeoutError as error:
        raise Refusal(408, "The request did not arrive in time.") from error

    async def again() -> Message:
        return parts.pop(0) if parts else await receive()

    return again


async def _refuse(send: Send, refusal: Refusal, *, as_page: bool, let_in: bool) -> None:
    kind, body = said(refusal.sentence, as_page=as_page, let_in=let_in)
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:  # such as an unclosed bracket
        return ""


def _cookie(headers: dict[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
