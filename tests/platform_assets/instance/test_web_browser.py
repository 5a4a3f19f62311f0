"""A real browser on the real web server: pages of other origins change nothing, and the genuine web UI works.

Needs a Chromium, at HEADWATER_TEST_CHROMIUM or /usr/bin/chromium; skips, and says so, without.
"""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.patience import PATIENCE_SECONDS, wait
from tests.platform_assets.instance.test_web_server import START, Served, serving

pytestmark = pytest.mark.xdist_group("web")

EVIL = "evil.example"
ATTACK = Template(
    """<!doctype html><meta charset="utf-8"><title>attacking</title>
<iframe name="hidden"></iframe>
<form id="form" method="post" target="hidden" action="$target/graphql?query=$query"><input name="a" value="b"></form>
<form id="text" method="post" target="hidden" enctype="text/plain" action="$target/report_asset_materialization/bell">
  <input name='{"a' value='b"}'></form>
<script>
  const query = decodeURIComponent("$query");
  // Nothing limits what a page computes: a step that does not end is named.
  const within = (step, promise) => Promise.race([promise, new Promise((_, fail) => {
    setTimeout(() => fail(new Error(step + " did not end")), $patience);
  })]);
  const body = JSON.stringify({query});
  const post = (path, settings) => fetch("$target" + path, {method: "POST", mode: "no-cors", ...settings});
  const typed = (type) => new Blob([body], {type});
  const loaded = (image) => new Promise((done) => { image.onload = image.onerror = done; });
  const socket = () => new Promise((done) => {
    const opened = new WebSocket("$target".replace("http", "ws") + "/graphql", "graphql-ws");
    opened.onopen = () => done("opened");
    opened.onerror = () => done("refused");
  });
  const submitted = (id) => new Promise((done) => {
    document.querySelector("iframe").addEventListener("load", done, {once: true});
    document.getElementById(id).submit();
  });
  async function attack() {
    const image = new Image();
    image.src = "$target/graphql?query=$query";
    await within("the image", loaded(image));
    await within("the form", submitted("form"));
    await within("the form of plain text", submitted("text"));
    const sent = await within("requests", Promise.allSettled([
      post("/graphql?query=$query"),
      post("/graphql", {body: typed("text/plain; x=application/json")}),
      post("/graphql", {body, headers: {"Content-Type": "application/json"}, mode: "cors"}),
      post("/report_asset_materialization/bell?partition=forged"),
      post("/report_asset_check/bell?check_name=heard&passed=true"),
      post("/report_asset_observation/bell?data_version=forged"),
      fetch("$target/graphql?query=$query", {mode: "no-cors"}),
    ]));
    navigator.sendBeacon("$target/report_asset_materialization/bell");
    const read = await within("reading", fetch("$target/server_info").then(() => "read", () => "refused"));
    return {sent: sent.length, socket: await within("the socket", socket()), read};
  }
</script>"""
)


class Attacker(BaseHTTPRequestHandler):
    """Serves whatever page its server holds."""

    page = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = Path(os.environ.get("HEADWATER_TEST_CHROMIUM", "/usr/bin/chromium"))
    if not chromium.exists():
        pytest.skip(f"no browser at {chromium}; install Chromium, or name one by HEADWATER_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            # In a container everybody is root, which Chromium's sandbox refuses.
            args=["--no-sandbox", f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("browser") / "home") as served:
        yield served


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    yield page
    context.close()


@pytest.fixture(scope="module")
def attacker() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Attacker) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def attack(page: Page, attacker: ThreadingHTTPServer, host: str, target: str) -> dict[str, object]:
    """Open a page of `host` that attacks `target`; what it could find out."""
    Attacker.page = ATTACK.substitute(target=target, query=quote(START), patience=PATIENCE_SECONDS * 1000).encode()
    page.goto(f"http://{host}:{attacker.server_port}/")
    found = page.evaluate("attack()")
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", EVIL])
def test_a_page_of_another_origin_changes_nothing(
    served: Served, page: Page, attacker: ThreadingHTTPServer, host: str
) -> None:
    before = served.state()
    for target in (f"http://127.0.0.1:{served.port}", f"http://localhost:{served.port}"):
        assert attack(page, attacker, host, target) == {"sent": 7, "socket": "refused", "read": "refused"}
    # What was sent without waiting for an answer has been answered once this has.
    wait("the server to be done", lambda: served.ask("GET", "/server_info", None, [("Host", served.host)])[0] == 200)
    assert served.state() == before


def test_the_same_page_changes_much_without_the_guard(
    page: Page, attacker: ThreadingHTTPServer, tmp_path: Path
) -> None:
    with serving(tmp_path / "home", "dagster_webserver") as unguarded:
        found = attack(page, attacker, EVIL, f"http://127.0.0.1:{unguarded.port}")
        assert found == {"sent": 7, "socket": "opened", "read": "refused"}
        sensors, *_, materialization, observations, checks, _, _ = unguarded.state()
        assert sensors == [("visitors", "RUNNING")]
        assert (materialization is not None, observations, checks) == (True, 1, 1)


def test_a_name_that_is_pointed_at_this_machine_is_answered_nothing(served: Served, page: Page) -> None:
    answer = page.goto(f"http://{EVIL}:{served.port}/graphql")
    assert answer
    assert answer.status == 403
    assert "HEADWATER_WEB_ORIGINS" in page.content()
    read = "fetch('/graphql', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'})"
    assert page.evaluate(f"{read}.then((answer) => answer.status)") == 403


def test_the_web_ui_shows_and_starts_a_sensor_and_opens_by_a_link(
    served: Served, page: Page, attacker: ThreadingHTTPServer
) -> None:
    Attacker.page = f'<a href="http://{served.host}/locations/doorbell/sensors/visitors">sensors</a>'.encode()
    page.goto(f"http://{EVIL}:{attacker.server_port}/")
    page.get_by_text("sensors").click()
    page.locator("label:has(input[type=checkbox])").click()
    wait("the sensor to start", lambda: ("visitors", "RUNNING") in served.state()[0])
    opened = "new Promise((done) => { socket.onopen = () => done('opened'); socket.onerror = () => done('refused'); })"
    socket = f"const socket = new WebSocket('ws://{served.host}/graphql', 'graphql-ws')"
    assert page.evaluate(f"() => {{ {socket}; return {opened}; }}") == "opened"
