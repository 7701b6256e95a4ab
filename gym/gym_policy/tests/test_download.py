"""Downloading from a hub: a real HTTP server on this machine that answers as the hub does."""

import errno
import functools
import hashlib
import http.server
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save

from gym_command.command import run_command
from gym_command.testing import serving
from gym_dialogue.errors import InputError
from gym_policy.models import download

SHA = "5" * 40
REPO = "owner/model"
TOKEN = "hf_secret"


def _index(**shard_of):
    return json.dumps({"metadata": {}, "weight_map": shard_of}).encode()


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model-00001-of-00002.safetensors": save({"a": np.arange(3e5, dtype=np.float32)}),
    "model-00002-of-00002.safetensors": save({"b": np.ones(7, np.float32)}),
    "model.safetensors.index.json": _index(
        a="model-00001-of-00002.safetensors", b="model-00002-of-00002.safetensors"
    ),
    "sub/notes.txt": b"notes",
    "original/consolidated.pth": b"a second copy",
}
LARGE, SMALL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


class Hub(http.server.ThreadingHTTPServer):
    """What `snapshot_download` needs of the hub, for one repository."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repo = f"models/{REPO}"
        self.gated = False
        self.files = dict(FILES)
        self.damaged = {}  # file -> what is sent in its place
        self.refusals = {}  # start of an address -> (status, X-Error-Code, X-Error-Message)
        self.cut = {}  # file -> after how many bytes the connection breaks, once
        self.stalled = {}  # file -> after how many bytes nothing more comes
        self.done = threading.Event()
        self.requests = []  # (method, address, Range)

    def fetched(self):
        """(file, Range) of every request for a file's bytes."""
        gets = [(path, given) for method, path, given in self.requests if method == "GET"]
        return sorted((p.split(f"{SHA}/")[1], r or "") for p, r in gets if "/resolve/" in p)

    def handle_error(self, request, client_address):
        """A client that was killed is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Range")))
        for start, (status, code, message) in hub.refusals.items():
            if path.startswith(start):
                return self._send(b"", status, {"X-Error-Code": code, "X-Error-Message": message})
        name = hub.repo.removeprefix("models/")
        if path == f"/api/{hub.repo}/tree/{SHA}":
            return self._send_json([_entry(*item) for item in hub.files.items()])
        if path in (f"/api/{hub.repo}", f"/api/{hub.repo}/revision/main"):
            return self._send_json({"id": name, "sha": SHA, "gated": hub.gated})
        if path.startswith(f"/{name}/resolve/{SHA}/"):
            return self._send_file(path.split(f"/{SHA}/")[1])
        return self._send(b"", 404, {"X-Error-Code": "RepoNotFound"})

    def _send_json(self, value):
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def _send_file(self, name):
        hub, entry = self.server, _entry(name, self.server.files[name])
        body = hub.damaged.get(name, hub.files[name])
        etag = entry.get("lfs", entry)["oid"]
        headers = {"X-Repo-Commit": SHA, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if given := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(given[1])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self._send(body[start:], 206, headers)
        if self.command == "GET" and name in hub.stalled:
            self._send(body, 200, headers, hub.stalled[name])
            return hub.done.wait(60)
        if self.command == "GET" and name in hub.cut:
            self.close_connection = True
            return self._send(body, 200, headers, hub.cut.pop(name))
        return self._send(body, 200, headers)

    def _send(self, body, status, headers, sent=None):
        self.send_response(status)
        for key, value in (headers | {"Content-Length": len(body)}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
            self.wfile.flush()


def _entry(path, body):
    git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    entry = {"type": "file", "path": path, "size": len(body), "oid": git}
    if path.endswith(".safetensors"):
        sha256 = hashlib.sha256(body).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(body), "pointerSize": 130}
    return entry


@pytest.fixture
def hub():
    with serving(Hub()) as server:
        yield server
        server.done.set()


@pytest.fixture
def run(hub, tmp_path, monkeypatch, capsys):
    """Runs the command with a cache in tmp_path: its code, stdout and stderr."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(*names, flags=(), endpoint=hub.url):
        monkeypatch.setattr(sys, "argv", ["download", f"--names={json.dumps(names)}", *flags])
        code = 0
        try:
            run_command(functools.partial(download.main, endpoint=endpoint), download.Config)
        except SystemExit as error:
            code = error.code
        printed = capsys.readouterr()
        assert os.environ["HF_TOKEN"] not in printed.out + printed.err
        return code, *printed

    return run


def _refused(result):
    """The one line that a run ended with."""
    code, _, err = result
    assert code == 2, err
    assert "Traceback" not in err
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    return line


def _holds_everything(directory):
    held = {name for name in FILES if (directory / name).exists()}
    assert held == set(FILES) - {"original/consolidated.pth"}
    assert all((directory / name).read_bytes() == FILES[name] for name in held)
    return True


def test_a_model_arrives_in_the_cache_and_is_fetched_once(hub, run, tmp_path):
    code, out, err = run(REPO)
    assert code == 0, err
    directory = tmp_path / "hub/models--owner--model/snapshots" / SHA
    assert _holds_everything(directory)
    assert f"{REPO}: 5 files, 1.20MB" in out
    assert out.endswith(f"{directory}\n  bash scripts/eval_ood.sh {directory}\n")
    actual = huggingface_hub.hf_hub_download(REPO, "config.json", local_files_only=True)
    assert actual == str(directory / "config.json")
    assert len(hub.fetched()) == 5
    assert run(REPO)[0] == 0
    assert len(hub.fetched()) == 5


SHORT = {
    "gp_l_init": "bash scripts/train_rl_gp_l.sh paper --model={}",
    "gp_vl_init": "bash scripts/train_rl_gp_vl.sh paper --model={}",
    "virl_l_init": "bash scripts/train_rl_virl_l.sh paper --model={}",
    "virl_vl_init": "bash scripts/train_rl_virl_vl.sh paper --model={}",
    "gp_l_rl20": "bash scripts/eval_ood.sh {} paper",
    "base": "bash scripts/train_sft_gp_l.sh paper --model={}",
}


@pytest.mark.parametrize("name", SHORT)
def test_short_names_and_a_directory_of_ones_own(name, hub, run, tmp_path):
    hub.repo = f"models/{download.KNOWN[name][0]}"
    code, out, err = run(name, flags=[f"--local_dir={tmp_path}"])
    assert code == 0, err
    directory = tmp_path / hub.repo.split("/")[-1]
    assert _holds_everything(directory)
    assert out.splitlines()[-1].strip() == SHORT[name].format(directory)


def test_every_short_name_is_tried():
    assert set(SHORT) | {"data"} == set(download.KNOWN)


def _zipped(top):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{top}route_infos.json", "[]")
        archive.writestr(f"{top}street_views/a.jpg", "a")
    return buffer.getvalue()


@pytest.mark.parametrize("place", [None, "elsewhere"])
def test_the_data_lie_where_the_paper_settings_look(place, hub, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.repo = f"datasets/{download.KNOWN['data'][0]}"
    hub.files = {
        "SFT_Data/gp-l/data.json": b"[]",
        "VIRL_routes/VLN_mini.zip": _zipped(""),
        "VIRL_routes/nyc_1k_routes.zip": _zipped("nyc_1k_routes/"),
    }
    flags = [f"--local_dir={place}"] if place else []
    code, out, err = run("data", flags=flags)
    assert code == 0, err
    directory = Path(place or "data") / "SFTvsRL_Data"
    for name in ("VLN_mini", "nyc_1k_routes"):
        assert (directory / "VIRL_routes" / name / "street_views" / "a.jpg").read_text() == "a"
        assert f"{name}.zip: unpacked" in out
    *_, link, wording = (line.strip() for line in out.splitlines())
    data = tmp_path / directory / "SFT_Data/gp-l/data.json"
    assert wording.startswith(f"python -m gym_dialogue.wording {data} --task=gp_l")
    if place:
        subprocess.run(["bash", "-c", link], check=True)
    assert (tmp_path / "data/SFTvsRL_Data/SFT_Data/gp-l/data.json").is_file()
    code, out, err = run("data", flags=flags)
    assert code == 0, err
    assert "unpacked" not in out
    assert "ln -s" not in out


def test_large_files_come_first_and_one_by_one(hub, run, monkeypatch):
    monkeypatch.setattr(download, "_LARGE", 1000)
    code, _, err = run(REPO)
    assert code == 0, err
    gets = [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert [path.endswith(LARGE) for path in gets] == [True] + [False] * 4


def test_a_broken_connection_goes_on_where_it_broke(hub, run, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.cut[LARGE] = 100_000
    code, _, err = run(REPO, flags=[f"--local_dir={tmp_path}"])
    assert code == 0, err
    assert [given for name, given in hub.fetched() if name == LARGE] == ["", "bytes=100000-"]
    assert _holds_everything(tmp_path / "model")


def test_a_killed_run_goes_on_without_fetching_again_what_it_had(hub, run, tmp_path):
    hub.stalled[LARGE] = 100_000
    place = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_TOKEN": TOKEN}
    snapshot = tmp_path / "hub/models--owner--model/snapshots" / SHA
    command = [sys.executable, "-m", "gym_policy.models.download", f'--names=["{REPO}"]']
    with subprocess.Popen(command, env=os.environ | place, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len([path for path in snapshot.rglob("*") if path.is_file()]) < 4:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
    assert len(hub.fetched()) == 5
    hub.stalled.clear()
    hub.requests.clear()
    code, _, err = run(REPO)
    assert code == 0, err
    assert hub.fetched() == [(LARGE, "")]
    assert _holds_everything(snapshot)


@pytest.mark.parametrize("name", ["config.json", LARGE])
@pytest.mark.parametrize("place", ["cache", "local_dir"])
def test_a_damaged_file_is_named_and_fetched_again(name, place, hub, run, tmp_path):
    flags = [f"--local_dir={tmp_path}"] * (place == "local_dir")
    hub.damaged[name] = b"!" + FILES[name][1:]
    line = _refused(run(REPO, flags=flags))
    assert f"{name} (its checksum is not the hub's)" in line
    hub.damaged.clear()
    hub.requests.clear()
    subprocess.run(shlex.split(line.partition(" after: ")[2]), check=True)
    code, out, err = run(REPO, flags=flags)
    assert code == 0, err
    assert hub.fetched() == [(name, "")]
    assert _holds_everything(Path(out.splitlines()[-2]))


def test_a_file_cut_short_on_the_disk_is_named(run, tmp_path):
    flags = [f"--local_dir={tmp_path}"]
    assert run(REPO, flags=flags)[0] == 0
    (tmp_path / "model" / LARGE).write_bytes(b"")
    assert f"{LARGE} (0 bytes, not {len(FILES[LARGE])})" in _refused(run(REPO, flags=flags))


@pytest.mark.parametrize("shard_of", [{"c": SMALL}, {"a": "model-00009-of-00002.safetensors"}])
def test_weights_that_were_never_uploaded_are_named(shard_of, hub, run):
    hub.files["model.safetensors.index.json"] = _index(**shard_of)
    line = _refused(run(REPO))
    assert "model.safetensors.index.json does not fit the weights, as uploaded" in line


TREE, INFO = f"/api/models/{REPO}/tree", f"/api/models/{REPO}"
FILE = f"/{REPO}/resolve"
SETTINGS = "Enable access to public gated repositories in your token's settings."


@pytest.mark.parametrize(
    ("start", "answer", "words"),
    [
        (INFO, (404, "RepoNotFound", ""), "no such model"),
        (INFO, (401, "RepoNotFound", ""), "no such model"),
        (INFO, (401, "", "Invalid credentials in Authorization header"), "needs a valid token"),
        (INFO, (403, "", SETTINGS), f"answered 403 ({SETTINGS})"),
        (INFO, (503, "", ""), "answered 503"),
        (INFO, (200, "", ""), "does not answer like a hub"),
        (TREE, (404, "RevisionNotFound", ""), "answered 404"),
        (f"{INFO}/auth-check", (403, "GatedRepo", ""), "/owner/model and log in (hf auth login"),
        (FILE, (401, "GatedRepo", ""), "/owner/model and log in (hf auth login"),
        (FILE, (403, "", SETTINGS), f"answered 403 ({SETTINGS})"),
    ],
)
def test_what_the_hub_refuses_is_one_line(start, answer, words, hub, run):
    hub.gated = "auth-check" in start
    hub.refusals[start] = answer
    line = _refused(run(REPO))
    assert line.startswith(f"error: {REPO}: ")
    assert words in line


def test_a_model_that_is_not_to_be_had_is_refused_at_once(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(download.constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(InputError, match="cannot reach"):
        download.require("some/model", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="no such model"):
        download.require("some/other", hub.url)
    with pytest.raises(InputError, match="no such directory"):
        download.require("/nowhere/at/all", hub.url)
    assert time.monotonic() - began < 60


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(run, monkeypatch):
    monkeypatch.setattr(download, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and says nothing
        port = silent.getsockname()[1]
        begin = time.monotonic()
        line = _refused(run(REPO, endpoint=f"http://127.0.0.1:{port}"))
        assert f"cannot reach http://127.0.0.1:{port} (timed out)" in line
    line = _refused(run(REPO, endpoint=f"http://127.0.0.1:{port}"))
    assert f"cannot reach http://127.0.0.1:{port}" in line
    assert time.monotonic() - begin < 60
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in _refused(run(REPO))


def test_a_disk_that_is_too_small_is_one_line(hub, run, monkeypatch, tmp_path):
    free = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    line = _refused(run(REPO, flags=[f"--local_dir={tmp_path}/a/b"]))
    assert f"{tmp_path}/a/b: 1.20MB to fetch, 1.00MB free: free some" in line
    assert hub.fetched() == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Task error: No space left on device (os error 28)"),  # as hf_xet says it
    ],
)
def test_a_disk_that_fills_up_is_one_line(error, run, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(download, "snapshot_download", fail)
    assert "the disk is full" in _refused(run(REPO))


@pytest.mark.parametrize("names", [[], ["gp_l"], ["data", "a/b/c"], ["owner/na..me"]])
def test_a_name_that_is_none_is_one_line(names, hub, run):
    line = _refused(run(*names))
    assert (names or ["nothing"])[-1] in line
    assert hub.requests == []


def test_a_token_that_is_none_is_not_shown(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_se\acret")
    assert "odd characters" in _refused(run(REPO))
    assert hub.requests == []
