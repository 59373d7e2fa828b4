"""A proxy before an S3 server that answers a share of the requests with 503, as a busy store does."""

import http.client
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
)
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length"}


@contextmanager
def busy_proxy(endpoint: str, every: int) -> Iterator[tuple[str, list[str]]]:
    """Forward all requests to `endpoint` but each `every`-th, which fails.

    Yields:
        its URL, and the list of requests that failed.
    """
    counter, failed = itertools.count(1), []
    server = urlsplit(endpoint)

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if next(counter) % every == 0:
                failed.append(f"{self.command} {self.path}")
                self.answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                return
            connection = http.client.HTTPConnection(str(server.hostname), server.port)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            self.answer(response.status, dict(response.getheaders()), content)
            connection.close()

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            length = headers.get("Content-Length", headers.get("content-length"))
            self.send_header(
                "Content-Length", str(length if self.command == "HEAD" and length else len(content))
            )
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}", failed
    finally:
        proxy.shutdown()
        proxy.server_close()
