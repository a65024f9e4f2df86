"""deploy/nginx/sse.conf in a real nginx: events arrive when they are sent, nothing is pressed twice, nothing else is reachable."""

import contextlib
import http.client
import http.server
import socket
import subprocess
import threading
import time

import pytest

from conftest import ROOT, TOOLS

NGINX = TOOLS / "nginx" / "usr" / "sbin" / "nginx"
CONF = (ROOT / "deploy" / "nginx" / "sse.conf").read_text()
# How long something that must come may take, and what must not come is waited for.
PATIENCE_S = 10
SILENCE_S = 1.0
EVENTS = ("position", "decided", "persisted", "end")

pytestmark = pytest.mark.skipif(not NGINX.exists(), reason="no nginx here: helm/tests/tools.sh says why")


class Upstream(http.server.ThreadingHTTPServer):
    """Plays the services: remembers who asked for what, and sends each event only once the one before was read, or did not arrive in time."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = []
        self.was_read = {event: threading.Event() for event in EVENTS}
        self.in_time = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.seen.append(self.path)
        if self.path.endswith("/events"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            # As HTTP has it: an old client gets a body that ends with the connection.
            self.chunked = self.request_version == "HTTP/1.1"
            self.send_header(*(("Transfer-Encoding", "chunked") if self.chunked else ("Connection", "close")))
            self.end_headers()
            for event in EVENTS:
                self.chunk(f"event: {event}\n\n".encode())
                self.server.in_time.append(self.server.was_read[event].wait(SILENCE_S))
            self.chunk(b"")
        elif self.path.endswith("/dies"):
            self.close_connection = True
        else:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_POST(self):
        self.server.seen.append(self.path)
        # The service dies with the request in hand.
        self.close_connection = True

    def chunk(self, data):
        with contextlib.suppress(ConnectionError):
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n" if self.chunked else data)
            self.wfile.flush()


@contextlib.contextmanager
def proxy(folder, conf=CONF):
    """nginx in front of a gateway and a notifier; gives its port and both of them."""
    gateway, notifier = Upstream(), Upstream()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert conf.count("listen 8080;") == 1
    (folder / "server.conf").write_text(conf.replace("listen 8080;", f"listen 127.0.0.1:{port};"))
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    upstreams = "".join(
        # Twice: nginx then has another one to turn to.
        f"upstream {name} {{ {f'server 127.0.0.1:{server.server_port}; ' * 2} keepalive 4; }}\n"
        for name, server in (("gateway", gateway), ("notifier", notifier))
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{upstreams}include {folder}/server.conf;\n}}\n"
    )
    errors = (folder / "stderr").open("w+")
    command = [NGINX, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
    nginx = subprocess.Popen(command, stderr=errors)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert nginx.poll() is None and time.monotonic() < deadline, (folder / "stderr").read_text()
            with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 1):
                break
        yield port, gateway, notifier
    finally:
        nginx.terminate()
        nginx.wait(PATIENCE_S)
        gateway.shutdown()
        notifier.shutdown()


def ask(port, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request(method, path)
    return connection.getresponse()


def arrived_in_time(port, notifier):
    """Reads a stream; which of its events were here before the next one was sent."""
    stream = ask(port, "GET", "/v1/claims/c1/events")
    assert stream.status == 200
    for event in EVENTS:
        assert stream.readline() == f"event: {event}\n".encode()
        assert stream.readline() == b"\n"
        notifier.was_read[event].set()
    assert stream.read() == b""
    return notifier.in_time


def test_events_arrive_when_they_are_sent(tmp_path):
    with proxy(tmp_path) as (port, gateway, notifier):
        assert arrived_in_time(port, notifier) == [True] * len(EVENTS)
        assert notifier.seen == ["/v1/claims/c1/events"] and gateway.seen == []


@pytest.mark.parametrize("buffering", ["off", "on"])
def test_buffering_is_what_would_hold_them_back(tmp_path, buffering):
    """The control: this is what the check above can see. Over HTTP/1.0, nginx's default: chunks of HTTP/1.1 it passes on even while buffering."""
    conf = CONF.replace("proxy_buffering off;", f"proxy_buffering {buffering};").replace("proxy_http_version 1.1;", "proxy_http_version 1.0;")
    assert conf != CONF
    with proxy(tmp_path, conf) as (port, _, notifier):
        assert arrived_in_time(port, notifier) == [buffering == "off"] * len(EVENTS)


def test_nothing_is_pressed_twice(tmp_path):
    """A service that dies with a claim in hand: the client hears of it and presses again, the proxy does not."""
    with proxy(tmp_path) as (port, gateway, _):
        assert ask(port, "GET", "/v1/coupons/dies").status == 502
        assert ask(port, "POST", "/v1/coupons/c1/claims").status == 502
        assert gateway.seen == ["/v1/coupons/dies", "/v1/coupons/c1/claims"]


def test_each_path_has_its_service_and_nothing_else_is_reachable(tmp_path):
    with proxy(tmp_path) as (port, gateway, notifier):
        for path, status in {"/v1/coupons/c1": 200, "/v1/me/coupons": 200, "/v1/claims/c1": 200, "/admin/v1/coupons": 404, "/metrics": 404, "/log-filter": 404}.items():
            assert ask(port, "GET", path).status == status, path
        assert gateway.seen == ["/v1/coupons/c1", "/v1/me/coupons"] and notifier.seen == ["/v1/claims/c1"]
