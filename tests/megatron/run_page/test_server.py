import gzip
import http.client
import json
import threading
from contextlib import contextmanager

import pytest

from megatron.run_page import server as module
from megatron.run_page.page import Asset
from megatron.run_page.server import PageServer

ASSETS = {"/": Asset(b"<p>page</p>", "text/html"), "/page.js": Asset(b"1", "text/javascript")}


class Look:
    def __init__(self):
        self.state, self.times = {"step": 1}, 0

    def __call__(self):
        self.times += 1
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


@contextmanager
def serving(look, host="127.0.0.1"):
    with PageServer(host, 0, ASSETS, look) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=named)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


@pytest.fixture
def look(monkeypatch):
    monkeypatch.setattr(module, "SHORTEST_PAUSE_SECONDS", 0.0)
    return Look()


def test_page_and_assets(look):
    with serving(look) as server:
        assert server.address == f"http://127.0.0.1:{server.server_address[1]}/"
        status, headers, content = ask(server, "/?x=1")
        assert (status, content) == (200, b"<p>page</p>")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert ask(server, "/page.js")[2] == b"1"


def test_a_snapshot_is_sent_when_it_is_another(look):
    with serving(look) as server:
        status, headers, content = ask(server, "/snapshot.json")
        assert (status, json.loads(gzip.decompress(content))) == (200, {"step": 1})
        tag = headers["ETag"]
        assert ask(server, "/snapshot.json", If_None_Match=tag)[::2] == (304, b"")
        look.state = {"step": 2}
        status, headers, content = ask(server, "/snapshot.json", If_None_Match=tag)
        assert (status, json.loads(gzip.decompress(content))) == (200, {"step": 2})
        assert headers["ETag"] != tag


def test_many_browsers_cost_one_look(look, monkeypatch):
    monkeypatch.setattr(module, "SHORTEST_PAUSE_SECONDS", 60.0)
    with serving(look) as server:
        assert {ask(server, "/snapshot.json")[0] for _ in range(5)} == {200}
    assert look.times == 1


def test_a_fault_is_told_and_the_next_look_is_tried(look):
    look.state = FileNotFoundError("runs/a is no folder")
    with serving(look) as server:
        status, _, content = ask(server, "/snapshot.json")
        assert (status, content) == (500, b"FileNotFoundError: runs/a is no folder")
        look.state = {"step": 3}
        assert ask(server, "/snapshot.json")[0] == 200


@pytest.mark.parametrize(
    "path", ["/log.jsonl", "/../../etc/passwd", "/%2e%2e/x", "/page.html", "/plotly"]
)
def test_no_path_names_a_file(look, path):
    with serving(look) as server:
        assert ask(server, path)[0] == 404


def test_nothing_can_be_sent_to_it(look):
    with serving(look) as server:
        assert ask(server, "/", method="POST")[0] == 501


def test_a_page_elsewhere_cannot_read_it_by_a_name_of_its_own(look):
    with serving(look) as server:
        port = server.server_address[1]
        for name in ("127.0.0.1", "localhost", "[::1]"):
            assert ask(server, "/", Host=f"{name}:{port}")[0] == 200
            assert ask(server, "/", Host=name)[0] == 200  # as a browser says it of port 80
        for name in ("evil.example", "127.0.0.1.evil.example", ""):
            assert ask(server, "/snapshot.json", Host=f"{name}:{port}")[0] == 403
    assert look.times == 0


def test_a_server_for_others_has_any_name(look):
    with serving(look, host="0.0.0.0") as server:
        assert ask(server, "/", Host="node17.cluster:9000")[0] == 200


def test_a_taken_port_is_refused_in_a_line(look):
    with serving(look) as server, pytest.raises(OSError, match="name another --port, or 0"):
        PageServer("127.0.0.1", server.server_address[1], ASSETS, look)


def test_a_port_that_there_is_not_is_refused_by_its_name(look):
    with pytest.raises(ValueError, match="--port is 99999: must be at most 65535"):
        PageServer("127.0.0.1", 99999, ASSETS, look)


def test_the_other_name_of_this_machine(look):
    try:
        with serving(look, host="::1") as server:
            assert server.address == f"http://[::1]:{server.server_address[1]}/"
            connection = http.client.HTTPConnection("::1", server.server_address[1], timeout=10)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
