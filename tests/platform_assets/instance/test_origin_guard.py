"""Which requests the guard lets through, over every combination of what a browser or a program can send."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.instance.origin_guard import Message, OriginGuard, Receive, Scope, Send

PORT = 3000
PROXY = "https://headwater.example"
OURS = ("127.0.0.1:3000", "localhost:3000", "[::1]:3000")
JSON = "application/json"

HOSTS = st.sampled_from([*OURS, "LOCALHOST:3000", "headwater.example"])
FOREIGN_HOSTS = st.sampled_from(
    ["evil.example", "127.0.0.1", "localhost", "localhost:3001", "127.0.0.1:3000.evil.example", "evil@localhost:3000"]
    + ["headwater.example:3000", "headwater.example.evil.example", "", "127.0.0.1:3000, evil.example", "127.1:3000"]
)
FOREIGN_ORIGINS = st.sampled_from(
    ["http://evil.example", "null", "", "http://localhost:3001", "https://127.0.0.1:3000", "http://headwater.example"]
    + ["https://headwater.example.evil.example", "http://127.0.0.1:3000.evil.example", "http://127.0.0.1", "file://"]
    + ["https://headwater.example, http://evil.example", "https://headwater.example/"]
)
METHODS = st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "get", "BREW"])
OTHER_KINDS = st.sampled_from(
    ["text/plain", "text/plain; x=application/json", "application/x-www-form-urlencoded", "multipart/form-data", ""]
    + ["application/jsonp", "application/json+x", "application/graphql", "x/application/json", "application/json, x/y"]
)


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """The guarded application: it says yes to whatever reaches it."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def asked(kind: str = "http", method: str = "GET", **headers: str | list[str]) -> list[Message]:
    """What is sent in answer to a request with these headers, `host` first among them."""
    given = [(name.replace("_", "-"), [value] if isinstance(value, str) else value) for name, value in headers.items()]
    encoded = [(name.encode(), value.encode("latin-1")) for name, values in given for value in values]
    scope: dict[str, Any] = {"type": kind, "path": "/", "headers": encoded}
    if kind == "http":
        scope["method"] = method
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("the guard reads no body")

    asyncio.run(OriginGuard(answering, PORT, [PROXY], "HEADWATER_WEB_ORIGINS")(scope, receive, send))
    return sent


def passes(kind: str = "http", method: str = "GET", **headers: str | list[str]) -> bool:
    first = asked(kind, method, **headers)[0]
    return first["type"] == "websocket.accept" or first.get("status") == 200


@settings(deadline=None)
@given(HOSTS, st.booleans())
def test_a_program_or_page_of_ours_may_read_and_with_json_change(host: str, names_origin: bool) -> None:
    scheme = "https" if host == "headwater.example" else "http"
    origin: dict[str, str | list[str]] = {"origin": f"{scheme}://{host}"} if names_origin else {}
    assert passes(host=host, **origin)
    for kind in (JSON, "application/json; charset=utf-8", "Application/JSON"):
        assert passes(method="POST", host=host, content_type=kind, **origin)


@settings(deadline=None)
@given(FOREIGN_HOSTS, METHODS, st.booleans())
def test_another_host_is_refused_whatever_else_is_said(host: str, method: str, names_origin: bool) -> None:
    origin: dict[str, str | list[str]] = {"origin": f"http://{OURS[0]}"} if names_origin else {}
    assert not passes(method=method, host=host, content_type=JSON, **origin)
    assert not passes("websocket", host=host, origin=f"http://{OURS[0]}")


@settings(deadline=None)
@given(HOSTS, FOREIGN_ORIGINS, METHODS)
def test_another_origin_is_refused_whatever_else_is_said(host: str, origin: str, method: str) -> None:
    assert not passes(method=method, host=host, origin=origin, content_type=JSON)
    assert not passes("websocket", host=host, origin=origin)


@settings(deadline=None)
@given(HOSTS, METHODS, OTHER_KINDS)
def test_without_json_only_reading_is_let_through(host: str, method: str, kind: str) -> None:
    assert passes(method=method, host=host, content_type=kind) == (method in ("GET", "HEAD", "OPTIONS"))
    assert not passes(method="POST", host=host)
    assert not passes(method="POST", host=host, content_type=[JSON, kind])


@settings(deadline=None)
@given(
    HOSTS,
    METHODS,
    st.sampled_from(["cross-site", "same-site", "Cross-Site", "?"]),
    st.sampled_from(["cors", "no-cors"]),
)
def test_what_a_foreign_page_sends_without_an_origin_is_refused(host: str, method: str, site: str, mode: str) -> None:
    assert not passes(method=method, host=host, content_type=JSON, sec_fetch_site=site, sec_fetch_mode=mode)
    framed = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}
    assert not passes(method=method, host=host, content_type=JSON, sec_fetch_site=site, **framed)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "same-origin"])
def test_a_link_to_us_opens(site: str) -> None:
    navigation = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert passes(host=OURS[0], **navigation)


@pytest.mark.parametrize("name", ["host", "origin"])
def test_headers_that_contradict_themselves_are_refused(name: str) -> None:
    headers: dict[str, str | list[str]] = {"host": OURS[0], "origin": f"http://{OURS[0]}"}
    value = headers[name]
    for values in ([str(value), "evil.example"], [str(value), str(value)]):
        assert not passes(**{**headers, name: values})
        assert not passes("websocket", **{**headers, name: values})
    assert not passes(origin=f"http://{OURS[0]}"), "no host"


def test_one_name_of_ours_does_not_speak_for_another() -> None:
    # On the same port of ::1 may listen a server of somebody else, whose page a browser then shows as localhost.
    assert not passes(host=OURS[0], origin=f"http://{OURS[1]}")


def test_a_websocket_needs_an_origin_of_ours() -> None:
    assert passes("websocket", host=OURS[0], origin=f"http://{OURS[0]}")
    assert passes("websocket", host="headwater.example", origin=PROXY)
    assert not passes("websocket", host=OURS[0])


def test_a_refusal_names_the_setting_and_what_was_sent() -> None:
    for headers in ({"host": "evil.example"}, {"host": OURS[0], "origin": "http://evil.example"}):
        start, body = asked(**headers)  # type: ignore[arg-type]
        assert start["status"] == 403
        assert b"HEADWATER_WEB_ORIGINS" in body["body"]
        assert b"evil.example" in body["body"]
    assert b"Content-Type: application/json" in asked(method="POST", host=OURS[0])[1]["body"]


def test_pages_of_ours_are_shown_in_no_foreign_frame() -> None:
    assert (b"x-frame-options", b"SAMEORIGIN") in asked(host=OURS[0])[0]["headers"]
