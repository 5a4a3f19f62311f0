"""Who may ask a web server of ours: the layer before every application that a browser can reach.

Belongs here: judging the host, origin and content type of HTTP requests and WebSocket upgrades. Not here: what an
application answers, and who a person is.

A browser lets any page send requests to 127.0.0.1. Some it sends at once (images, forms, `fetch` with plain text,
WebSockets), others it asks about first, and that question no application of ours answers with yes. A page can also
point its own host name at 127.0.0.1 and then read what it is answered. So a request must name a host of ours, must
not come from a foreign page, and must bring JSON, which a browser asks about, if it may change anything.
"""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_READING = ("GET", "HEAD", "OPTIONS")
_SHOWN_CHARACTERS = 100


class OriginGuard:
    """An ASGI application that lets to another one what our own pages and programs send, and refuses the rest."""

    def __init__(self, application: Application, port: int, origins: Sequence[str], setting: str) -> None:
        """Guard `application`.

        Args:
            application: what is asked once a request is let through.
            port: the port on the loopback under which it is reached.
            origins: where else it is shown, as by a proxy: `https://name` or `https://name:port`.
            setting: the setting that holds `origins`, for refusals to name.
        """
        self._application = application
        self._setting = setting
        self._own_hosts = {name if port == 80 else f"{name}:{port}" for name in LOOPBACK}
        self._origins = {origin.lower() for origin in origins}
        self._hosts = self._own_hosts | {origin.partition("://")[2] for origin in self._origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the application, or refuse; see the ASGI specification."""
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
        elif reason := self.refusal(scope):
            await _refuse(scope, send, reason)
        elif scope["type"] == "websocket":
            await self._application(scope, receive, send)
        else:
            await self._application(scope, receive, _unframed(send))

    def refusal(self, scope: Scope) -> str | None:
        """Why a request or an upgrade is refused, and what to do; None when it is let through."""
        hosts = [host.lower() for host in _values(scope, b"host")]
        if len(hosts) != 1:
            return f"a request names one Host, this one {len(hosts)}"
        if hosts[0] not in self._hosts:
            return (
                f"the host {_shown(hosts[0])} is not one of {', '.join(sorted(self._hosts))}. "
                f"If a proxy shows this server under it, set {self._setting} to the address that people open"
            )
        return self._foreign(scope, hosts[0]) or (None if _is_reading(scope) else _without_json(scope))

    def _foreign(self, scope: Scope, host: str) -> str | None:
        """Why a request counts as one of a foreign page; None when it is ours."""
        origins = [origin.lower() for origin in _values(scope, b"origin")]
        if len(origins) > 1:
            return f"a request names at most one Origin, this one {len(origins)}"
        if origins:
            ours = origins[0] in self._origins or (host in self._own_hosts and origins[0] == f"http://{host}")
            return None if ours else self._not_ours(f"a page of {_shown(origins[0])}")
        if scope["type"] == "websocket":
            return "a WebSocket is opened by a page of ours, and this upgrade names no Origin"
        sites = {site.lower() for site in _values(scope, b"sec-fetch-site")}
        if sites <= {"same-origin", "none"} or (_is_reading(scope) and _opens_a_page(scope)):
            return None
        return self._not_ours("a page of another origin")

    def _not_ours(self, sender: str) -> str:
        return (
            f"{sender} may not send this. If it is this server's own page, shown by a proxy, set {self._setting} to "
            "the address that people open"
        )


def _is_reading(scope: Scope) -> bool:
    return scope["type"] == "websocket" or scope["method"] in _READING


def _opens_a_page(scope: Scope) -> bool:
    """Whether a person follows a link to us; a page can neither see nor steer what opens."""
    return _values(scope, b"sec-fetch-mode") == ["navigate"] and _values(scope, b"sec-fetch-dest") == ["document"]


def _without_json(scope: Scope) -> str | None:
    kinds = _values(scope, b"content-type")
    if len(kinds) == 1 and kinds[0].partition(";")[0].strip().lower() == "application/json":
        return None
    return f"{_shown(scope['method'])} requests bring JSON: send one header Content-Type: application/json"


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_CHARACTERS])


def _unframed(send: Send) -> Send:
    """Forbid pages of other origins to show ours in a frame, where a click could be stolen."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"x-frame-options", b"SAMEORIGIN")]
        await send(message)

    return sending


async def _refuse(scope: Scope, send: Send, reason: str) -> None:
    kind = scope["type"]
    if kind == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:_SHOWN_CHARACTERS]})
            return
        kind = "websocket.http"
    body = f"Refused: {reason}.\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": f"{kind}.response.start", "status": 403, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
