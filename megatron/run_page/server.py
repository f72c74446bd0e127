"""Serves the page of runs to a browser, and what there is to be seen as often as it asks.

Paths are looked up in a table: nothing that a browser sends names a file.
"""

import gzip
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from megatron.run_page.page import SECURITY_POLICY, Asset

SNAPSHOT = "/snapshot.json"
SHORTEST_PAUSE_SECONDS = 1.0
"""Between two looks at the logs, however many browsers ask."""
LARGEST_PORT = 65535
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")


class Snapshots:
    """What there is to be seen, as bytes, with a tag that changes when it does.

    Args:
        look: gives JSON data.
    """

    def __init__(self, look: Callable[[], Any]) -> None:
        self._look, self._lock = look, threading.Lock()
        self._made = -SHORTEST_PAUSE_SECONDS
        self._content, self._tag = b"", ""

    def latest(self) -> tuple[bytes, str]:
        """Content, compressed by gzip, and its tag."""
        with self._lock:
            now = time.monotonic()
            if now - self._made >= SHORTEST_PAUSE_SECONDS:
                text = json.dumps(self._look(), allow_nan=False).encode()
                tag = f'"{hashlib.sha256(text).hexdigest()[:20]}"'
                if tag != self._tag:
                    self._content, self._tag = gzip.compress(text, 5), tag
                self._made = time.monotonic()
            return self._content, self._tag


class _Handler(BaseHTTPRequestHandler):
    """Answers GET for the page, its assets and the snapshot."""

    server: "PageServer"
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if not self.server.is_named(self.headers.get("Host", "")):
            self._send(HTTPStatus.FORBIDDEN, b"this page has another name\n", "text/plain")
        elif path == SNAPSHOT:
            self._send_snapshot()
        elif path in self.server.assets:
            asset = self.server.assets[path]
            self._send(HTTPStatus.OK, asset.content, asset.kind)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is no such page\n", "text/plain")

    def _send_snapshot(self) -> None:
        try:
            content, tag = self.server.snapshots.latest()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, text.encode(), "text/plain")
            return
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", "application/json", ETag=tag)
        else:
            more = {"ETag": tag, "Content-Encoding": "gzip"}
            self._send(HTTPStatus.OK, content, "application/json", **more)

    def _send(self, status: HTTPStatus, content: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        headers |= {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Cache-Control": "no-cache",
            "Content-Security-Policy": SECURITY_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line a second would hide all others."""


class PageServer(ThreadingHTTPServer):
    """The page of runs at an address.

    Args:
        host: name or number to listen at.
        port: 0 takes one that is free.
        assets: path -> what is sent.
        look: gives the snapshot.

    Raises:
        OSError: if the address cannot be had.
        ValueError: for a port that there is not.
    """

    daemon_threads = True

    def __init__(
        self, host: str, port: int, assets: dict[str, Asset], look: Callable[[], Any]
    ) -> None:
        self.assets, self.snapshots = assets, Snapshots(look)
        self._is_local = host in LOCAL_NAMES
        if ":" in host:
            self.address_family = socket.AF_INET6
        if port > LARGEST_PORT:
            raise ValueError(f"--port is {port}: must be at most {LARGEST_PORT}")
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise OSError(
                f"{host}:{port} cannot be listened at ({error.strerror}): name another --port, or 0 for one "
                "that is free"
            ) from error

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}/" if ":" in str(host) else f"http://{host!s}:{port}/"

    def is_named(self, host: str) -> bool:
        """Whether a request is meant for this server: a page elsewhere must not read it by a name of its own."""
        return not self._is_local or re.sub(r":\d+$", "", host).strip("[]") in LOCAL_NAMES

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that leaves in the middle of an answer is no fault."""
