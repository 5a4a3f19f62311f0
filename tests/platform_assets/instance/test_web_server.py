"""The real web server: what programs and our own pages can do, and what no page of another origin can."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from platform_assets.instance.client import Client
from platform_assets.instance.services import bound
from resources.environment import TELEMETRY_OFF
from tests.patience import PATIENCE_SECONDS, SOON_SECONDS, wait

pytestmark = pytest.mark.xdist_group("web")

LOCATION = Path(__file__).with_name("doorbell.py")
PROXY = "https://headwater.example"

SELECTOR = '{repositoryLocationName: "doorbell", repositoryName: "__repository__", sensorName: "visitors"}'
START = f"mutation {{ startSensor(sensorSelector: {SELECTOR}) {{ __typename }} }}"
REPORT = 'mutation { reportRunlessAssetEvents(eventParams: {assetKey: {path: ["bell"]}, eventType: %s}) {__typename} }'


@dataclass(frozen=True)
class Served:
    """A running web server and the instance that it shows."""

    instance: dg.DagsterInstance
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def state(self) -> tuple[object, ...]:
        """All that a request could have changed: sensors, runs, and events of the asset and its check."""
        bell = dg.AssetKey("bell")
        record = self.instance.get_asset_records([bell])
        return (
            sorted((one.instigator_name, one.status.value) for one in self.instance.all_instigator_state()),
            self.instance.get_runs_count(),
            len(self.instance.get_backfills()),
            record[0].asset_entry.last_materialization_storage_id if record else None,
            len(self.instance.fetch_observations(bell, limit=10).records),
            len(
                self.instance.event_log_storage.get_asset_check_execution_history(
                    dg.AssetCheckKey(bell, "heard"), limit=10
                )
            ),
            sorted(self.instance.get_dynamic_partitions("bells")),
            self.instance.get_concurrency_config().pool_config.default_pool_limit,
        )

    def ask(self, method: str, target: str, body: bytes | None, headers: list[tuple[str, str]]) -> tuple[int, bytes]:
        """Status and body of the answer to exactly this request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found


@contextmanager
def serving(home: Path, module: str = "platform_assets.instance.web_server") -> Iterator[Served]:
    """A web server over a small code location, ours by default, shown by a proxy as `PROXY`."""
    home.mkdir()
    (home / "dagster.yaml").write_text("{telemetry: {enabled: false}, nux: {enabled: false}}")
    workspace = home / "workspace.yaml"
    location = {"python_file": {"relative_path": str(LOCATION), "location_name": "doorbell"}}
    workspace.write_text(yaml.safe_dump({"load_from": [location]}))
    variables = {**TELEMETRY_OFF, "DAGSTER_HOME": str(home), "HEADWATER_WEB_ORIGINS": PROXY}
    with dg.DagsterInstance.from_config(str(home)) as instance, bound(0) as listener:
        served = Served(instance, listener.getsockname()[1])
        where = ["--listener", str(listener.fileno())] if "instance" in module else ["--port", str(served.port)]
        server = subprocess.Popen(
            [sys.executable, "-m", module, "--workspace", str(workspace), *where],
            env={**os.environ, **variables},
            pass_fds=[listener.fileno()],
        )
        listener.close()
        client = Client(f"http://{served.host}")
        try:
            wait("the web server", lambda: server.poll() is not None or client.is_up())
            assert server.poll() is None
            yield served
        finally:
            server.terminate()
            try:
                server.wait(timeout=SOON_SECONDS)
            except subprocess.TimeoutExpired:
                # It waits for connections to end, and a browser may hold one open.
                server.kill()
                server.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("web") / "home") as served:
        yield served


def graphql(query: str) -> bytes:
    return json.dumps({"query": query}).encode()


JSON = ("Content-Type", "application/json")
EVIL = ("Origin", "http://evil.example")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
DISGUISED = ("Content-Type", "text/plain; x=application/json")
BODILESS = ("Content-Length", "0")
QUERY = f"/graphql?query={quote(START)}"

ATTACKS: Mapping[str, tuple[str, str, bytes | None, list[tuple[str, str]]]] = {
    "an image": ("GET", QUERY, None, []),
    "an image, with what browsers say of it": ("GET", QUERY, None, [("Accept", "image/*"), ("Sec-Fetch-Site", "none")]),
    "a look ahead": ("HEAD", QUERY, None, []),
    "a question": ("OPTIONS", QUERY, None, [EVIL]),
    "a coded path": ("GET", QUERY.replace("/graphql", "/%67raphql"), None, []),
    "GET with a JSON body": ("GET", "/graphql", graphql(START), [JSON]),
    "a query in upper case": ("GET", QUERY, None, [("ACCEPT", "*/*")]),
    "a form": ("POST", "/graphql", b"query=" + quote(START).encode(), [FORM]),
    "a form with the query in the address": ("POST", QUERY, b"", [FORM]),
    "no content type": ("POST", QUERY, None, [BODILESS]),
    "plain text": ("POST", "/graphql", graphql(START), [("Content-Type", "text/plain")]),
    "plain text in disguise": ("POST", "/graphql", graphql(START), [DISGUISED]),
    "GraphQL's own type": ("POST", "/graphql", START.encode(), [("Content-Type", "application/graphql")]),
    "two types": ("POST", "/graphql", graphql(START), [JSON, ("Content-Type", "text/plain")]),
    "a list of types": ("POST", "/graphql", graphql(START), [("Content-Type", "text/plain, application/json")]),
    "JSON of another origin": ("POST", "/graphql", graphql(START), [JSON, EVIL]),
    "JSON of no origin": ("POST", "/graphql", graphql(START), [JSON, ("Origin", "null")]),
    "JSON of two origins": ("POST", "/graphql", graphql(START), [JSON, ("Origin", PROXY), EVIL]),
    "JSON of another site": ("POST", "/graphql", graphql(START), [JSON, ("Sec-Fetch-Site", "cross-site")]),
    "JSON of another port": ("POST", "/graphql", graphql(START), [JSON, ("Sec-Fetch-Site", "same-site")]),
    "a forged materialization": ("POST", "/report_asset_materialization/bell?partition=x", None, [BODILESS]),
    "the same of another origin": ("POST", "/report_asset_materialization/bell", b"{}", [JSON, EVIL]),
    "the same by its parameter": ("POST", "/report_asset_materialization/?asset_key=bell", None, [BODILESS]),
    "a forged check": ("POST", "/report_asset_check/bell?check_name=heard&passed=true", None, [BODILESS]),
    "a forged observation": ("POST", "/report_asset_observation/bell", None, [BODILESS]),
    "a put": ("PUT", "/report_asset_materialization/bell", b"{}", [FORM]),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_foreign_page_can_send_changes_nothing(served: Served, attack: str) -> None:
    before = served.state()
    method, target, body, headers = ATTACKS[attack]
    status, answer = served.ask(method, target, body, [("Host", served.host), *headers])
    assert status in (403, 405), answer
    assert served.state() == before


@pytest.mark.parametrize("target", ["/", "/graphql", "/server_info", "/logs/x.err", "/report_asset_check/bell"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
def test_another_host_is_answered_nothing(served: Served, method: str, target: str) -> None:
    for host in ([("Host", "evil.example")], [("Host", f"evil.example:{served.port}")], [("Host", "127.0.0.1")]):
        assert served.ask(method, target, graphql("{version}"), [*host, JSON])[0] == 403
    both = [("Host", served.host), ("Host", "evil.example"), JSON]
    assert served.ask(method, target, graphql("{version}"), both)[0] in (400, 403)


def test_a_target_that_names_its_host_does_not_get_around_the_host(served: Served) -> None:
    before = served.state()
    for authority in (served.host, "evil.example"):
        target = f"http://{authority}{QUERY}"
        assert served.ask("GET", target, None, [("Host", served.host)])[0] in (400, 403, 405)
        assert served.ask("POST", target, None, [("Host", "evil.example"), JSON, BODILESS])[0] in (400, 403)
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.sendall(f"GET {QUERY} HTTP/1.0\r\n\r\n".encode())
        assert raw.recv(100).split()[1] in (b"400", b"403")
    assert served.state() == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
def test_a_websocket_of_another_page_is_refused(served: Served, headers: dict[str, str]) -> None:
    host = headers.pop("Host", served.host)
    with pytest.raises(InvalidStatus) as refused, opened(served, host, headers):
        pass
    assert refused.value.response.status_code == 403
    assert b"Refused" in (refused.value.response.body or b"")


@pytest.mark.parametrize("origin", ["http://{host}", PROXY])
def test_a_websocket_of_a_page_of_ours_answers(served: Served, origin: str) -> None:
    with opened(served, served.host, {"Origin": origin.format(host=served.host)}) as websocket:
        websocket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(websocket.recv()) == {"type": "connection_ack"}


@contextmanager
def opened(served: Served, host: str, headers: dict[str, str]) -> Iterator[Any]:
    with (
        socket.create_connection(("127.0.0.1", served.port)) as plain,
        connect(
            f"ws://{host}/graphql",
            sock=plain,
            subprotocols=[Subprotocol("graphql-ws")],
            additional_headers=headers,
            open_timeout=PATIENCE_SECONDS,
        ) as websocket,
    ):
        yield websocket


def test_programs_and_pages_of_ours_ask_and_change_as_before(served: Served) -> None:
    client = Client(f"http://{served.host}")
    for on in (True, False):
        client.set_sensor("doorbell", "visitors", on)
        (sensor,) = served.instance.all_instigator_state(instigator_statuses=None)
        assert sensor.instigator_type == InstigatorType.SENSOR
        assert sensor.status.value == ("RUNNING" if on else "STOPPED")
    proxied = [("Host", "headwater.example"), ("Origin", PROXY), JSON]
    assert served.ask("POST", "/graphql", graphql("{version}"), proxied)[0] == 200
    rewritten = [("Host", served.host), ("Origin", PROXY), JSON]
    assert served.ask("POST", "/graphql", graphql("{version}"), rewritten)[0] == 200
    report = "/report_asset_materialization/bell"
    assert served.ask("POST", report, b'{"description": "by hand"}', [("Host", served.host), JSON])[0] == 200
    page = [("Host", served.host), ("Accept", "text/html")]
    for target in ("/", "/graphql", QUERY, "/assets"):
        status, shown = served.ask("GET", target, None, page)
        assert (status, b"<html" in shown) == (200, True)
