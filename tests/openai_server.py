"""An OpenAI-compatible server for tests: says what it is told to, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 4}}


class Reply:
    """One answer.

    Args:
        text: what the model says.
        tool: (name, arguments) of a tool that it calls instead.
        status, headers: of an error.
        usage: tokens that are told; None: nothing is.
        until: the answer waits for this.
    """

    def __init__(
        self,
        text: str = "",
        *,
        tool: tuple[str, dict[str, Any]] | None = None,
        status: int = 200,
        headers: dict[str, str] | None = None,
        usage: dict[str, Any] | None = USAGE,
        until: threading.Event | None = None,
    ) -> None:
        self.text = text
        self.tool = tool
        self.status = status
        self.headers = headers or {}
        self.usage = usage
        self.until = until

    def message(self) -> dict[str, Any]:
        if self.tool is None:
            return {"role": "assistant", "content": self.text}
        called = {"name": self.tool[0], "arguments": json.dumps(self.tool[1])}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call-1", "type": "function", "index": 0, "function": called}],
        }


class OpenAIServer:
    """
    Attributes:
        replies: what is said next; ``default`` when there is nothing left.
        asked: bodies of the requests so far.
        keys: what they had as ``Authorization``.
        busiest: most requests that were answered at the same time.
    """

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.default = Reply("hello")
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.busiest = 0
        self._busy = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def provider(self, **more: Any) -> dict[str, Any]:
        """The table of a provider that is this server."""
        return {
            "model": "tester",
            "model_provider": "openai",
            "base_url": self.url,
            "api_key_env": "PATH",
            "expected_output_tokens": 20,
            **more,
        }

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.asked.append(body)
            self.keys.append(handler.headers.get("Authorization", ""))
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            reply = self.replies.popleft() if self.replies else self.default
        try:
            if reply.until is not None:
                reply.until.wait(30)
        finally:
            with self._lock:
                self._busy -= 1
        try:
            self._write(handler, body, reply)
        except (BrokenPipeError, ConnectionResetError):
            return  # the caller has gone

    def _write(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], reply: Reply) -> None:
        if reply.status != 200:
            _send(handler, reply.status, {"error": {"message": "not now"}}, reply.headers)
        elif body.get("stream"):
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream")
            handler.end_headers()
            for event in _events(body, reply):
                handler.wfile.write(f"data: {event}\n\n".encode())
                handler.wfile.flush()
        else:
            choice = {"index": 0, "message": reply.message(), "finish_reason": "tool_calls" if reply.tool else "stop"}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "tester", "choices": [choice]}
            _send(handler, 200, {**answer, "usage": reply.usage} if reply.usage else answer, reply.headers)


def _send(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def _events(body: dict[str, Any], reply: Reply) -> Iterator[str]:
    def event(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tester", "choices": [choice]}

    if reply.tool is not None:
        yield json.dumps(event(reply.message()))
    for word in reply.text.split():
        yield json.dumps(event({"role": "assistant", "content": f"{word} "}))
    yield json.dumps(event({}, "stop"))
    if reply.usage and (body.get("stream_options") or {}).get("include_usage"):
        yield json.dumps({**event({}), "choices": [], "usage": reply.usage})
    yield "[DONE]"


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    try:
        yield server
    finally:
        server.close()
