"""A real HTTP server on this machine that answers as an OpenAI-compatible API does, or as one that
has a bad day.
"""

import hashlib
import http.server
import json
import threading
import time
from contextlib import contextmanager

from gym_command.testing import serving

HANG, DROP = "hang", "drop"


def completion(text, finish_reason="stop", **message):
    """Return the body of a good answer."""
    message = {"role": "assistant", "content": text} | message
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


def error(message, **more):
    """Return the body of an error."""
    return {"error": {"message": message, **more}}


class StubApi(http.server.ThreadingHTTPServer):
    """`bad_days` are what the next requests get instead of a reply: HANG, DROP, or (status, body,
    headers); `always` is what all get. A reply is `reply(request)`, after `delay` seconds.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.bad_days, self.always, self.delay = [], None, 0.0
        self.models = ["some-model", "another"]
        self.requests, self.authorizations = [], []
        self.active = self.peak = 0
        self.lock, self.done = threading.Lock(), threading.Event()

    @staticmethod
    def reply(request):
        """Return what is said, which follows from all that was asked."""
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]

    def handle_error(self, request, client_address):
        """Do nothing: that a client gave up is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        stub = self.server
        if self.path != "/v1/models" or stub.models is None:
            return self._send(404, error("Not Found"))
        return self._send(200, {"data": [{"id": name} for name in stub.models]})

    def do_POST(self):
        stub = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with stub.lock:
            stub.requests.append(request)
            stub.authorizations.append(self.headers.get("Authorization"))
            stub.active += 1
            stub.peak = max(stub.peak, stub.active)
            day = stub.bad_days.pop(0) if stub.bad_days else stub.always
        try:
            time.sleep(stub.delay)
            if day == HANG:
                stub.done.wait(30)
            elif day == DROP:
                self.close_connection = True
            else:
                self._send(*(day or (200, completion(stub.reply(request)))))
        finally:
            with stub.lock:
                stub.active -= 1

    def _send(self, status, body, headers=()):
        kind = "text/html" if isinstance(body, str) else "application/json"
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": len(data)} | dict(headers)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running_stub():
    """Run a StubApi for a while."""
    with serving(StubApi()) as stub:
        try:
            yield stub
        finally:
            stub.done.set()
