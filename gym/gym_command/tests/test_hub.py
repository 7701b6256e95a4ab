"""Sending to a hub: a real HTTP server on this machine that takes what the hub takes."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gym_command.hub import push_directory
from gym_command.testing import serving
from gym_dialogue import InputError


class Hub(ThreadingHTTPServer):
    """What an upload needs of the hub; `files` is what was committed, by repository."""

    def __init__(self, status=200):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.status, self.files, self.created = status, {}, []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        hub, address = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if hub.status != 200:
            return self._send({"error": "no"}, hub.status)
        if address == "/api/repos/create":
            made = json.loads(body)
            hub.created.append(made)
            prefix = "datasets/" if made.get("type") == "dataset" else ""
            return self._send({"url": f"{hub.url}/{prefix}{made['organization']}/{made['name']}"})
        if address == "/api/validate-yaml":  # of a card
            return self._send({"warnings": [], "errors": []})
        repo = address.removeprefix("/api/").rpartition("/")[0].rpartition("/")[0]
        if address.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._send({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                hub.files.setdefault(repo, {})[line["value"]["path"]] = content
        return self._send(
            {"commitUrl": f"{hub.url}/a/b/commit/5", "commitOid": "5", "success": True}
        )

    def do_GET(self):
        self._send({"sha": "5" * 40, "id": "x"}, self.server.status)

    def _send(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def _token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")


@pytest.mark.parametrize(
    ("repo_type", "place"), [("model", "models/a/b"), ("dataset", "datasets/a/b")]
)
def test_directory_is_sent(tmp_path, repo_type, place):
    (tmp_path / "sub").mkdir()
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "sub" / "data").write_bytes(b"\x00\x01")
    with serving(Hub()) as hub:
        address = push_directory(tmp_path, "a/b", repo_type, endpoint=hub.url)
    (made,) = hub.created  # huggingface_hub 1 and 2
    assert made.get("private") is True or made.get("visibility") == "private"
    assert hub.files == {place: {"README.md": b"card", "sub/data": b"\x00\x01"}}
    assert address == f"{hub.url}/{place.removeprefix('models/')}"


def test_token_that_may_not_write_is_said(tmp_path):
    (tmp_path / "f").write_text("x")
    with (
        serving(Hub(403)) as hub,
        pytest.raises(InputError, match=r"answered 403 .*; log in with a token that may write"),
    ):
        push_directory(tmp_path, "a/b", "model", endpoint=hub.url)


def test_hub_that_does_not_answer_is_said(tmp_path):
    (tmp_path / "f").write_text("x")
    with serving(Hub()) as hub:
        url = hub.url
    with pytest.raises(InputError, match=r"cannot reach .*what was written is in"):
        push_directory(tmp_path, "a/b", "model", endpoint=url)


def test_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no name of the hub"):
        push_directory(tmp_path, "a/b/c", "model")
