"""A chat completions server that says again what was said in recorded episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gym_command.testing import serving
from gym_dialogue import Episode
from gym_dialogue.chat import chat_message


def _content(content: Any) -> str:
    """The text of a message's content, and its images."""
    if isinstance(content, str):
        return content
    return "".join(p["text"] if p["type"] == "text" else p["image_url"]["url"] for p in content)


@contextmanager
def chat_server(episodes: list[Episode]) -> Iterator[tuple[str, list[Any]]]:
    """Serve the replies of episodes, each to the messages before it; yields the server's address
    and, as they come, the messages that were asked about.
    """
    replies = {}
    for episode in episodes:
        for dialogue in episode.dialogues:
            contents = [_content(chat_message(m)["content"]) for m in dialogue.messages]
            for due in range(1, len(contents), 2):
                replies[tuple(contents[:due])] = contents[due]
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"])
            reply = replies[tuple(_content(message["content"]) for message in body["messages"])]
            message = {"role": "assistant", "content": reply}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            about = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
            answer = json.dumps(about | {"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
