"""Uploads to a hub of this test's own on this machine, by the hub's real client."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from huggingface_hub import constants

from megatron.conversion.hub import card_metadata, push_to_hub


class Hub(BaseHTTPRequestHandler):
    """Takes what a client commits; `server.files` holds it, `server.made` the repositories."""

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            self.server.made.append(wanted)
            address = f"http://{self.headers['Host']}/{wanted['organization']}/{wanted['name']}"
            self._answer({"url": address})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            self._answer({"files": [self._upload(name) for name in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            address = f"http://{self.headers['Host']}/me/model/commit/{'1' * 40}"
            self._answer({"commitUrl": address, "commitOid": "1" * 40, "success": True})
        else:
            self.send_error(404)

    def _upload(self, name):
        return {"path": name, "uploadMode": "regular", "shouldIgnore": False}

    def _answer(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        """Repositories are empty, and so is what is known of anything else."""
        self._answer({"siblings": [], "id": "me/model", "sha": "0"})

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.made = {}, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    (made / "README.md").write_text("# a model")
    (made / "config.json").write_text("{}")
    return made


def test_every_file_of_the_folder_arrives(hub, folder):
    address = push_to_hub(folder, "me/model", private=True)
    assert address.endswith("/me/model")
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    (made,) = hub.made
    assert made.get("visibility") == "private" or made.get("private")


def test_a_hub_that_does_not_answer_is_one_line_and_what_to_do_then(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"is complete, but was not pushed to me/m .*hf upload"
    ) as e:
        push_to_hub(folder, "me/m", private=False)
    assert "\n" not in str(e.value)


def test_what_is_not_given_is_left_out():
    text = card_metadata(
        license=None, languages=(), datasets=["a/b"], pipeline="fill-mask", tags=["x"]
    )
    assert yaml.safe_load(text) == {
        "datasets": ["a/b"],
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["x"],
    }
