"""A stage that decodes, for tests of engines; and a loopback stub of Google's storage and Dataflow services.

The stub answers what clients of Cloud Storage (JSON API) and Dataflow (REST) ask, over real HTTP. It keeps the job
it is given, and does not run it.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa

from pipelines.steps.audio import AudioStage, AudioWorker

HASHES = pa.schema(
    [("id", pa.string()), ("sum", pa.string()), ("reject", pa.string()), ("detail", pa.string())]
)


@dataclass(frozen=True)
class HashWaveforms(AudioStage):
    """The sha256 of every waveform: equal bytes out only for equal samples in."""

    device: str = "cuda"
    name: ClassVar[str] = "hash"
    version: ClassVar[int] = 1
    outside_key: ClassVar[tuple[str, ...]] = ("device",)

    def open(self):
        return AudioWorker(self, HASHES, hash_batch)


def hash_batch(batch, rows):
    sums = [None if wave is None else hashlib.sha256(wave.tobytes()).hexdigest() for _, wave, _ in rows]
    rejects = [reject and reject.reason for _, _, reject in rows]
    details = [reject and reject.detail for _, _, reject in rows]
    return pa.record_batch([batch.column("id"), sums, rejects, details], schema=HASHES)


@dataclass
class Cloud:
    """What the services hold, and what they were asked."""

    bucket: str = "bucket"
    objects: dict[str, bytes] = field(default_factory=dict)
    jobs: list[dict] = field(default_factory=list)
    uploads: dict[str, str] = field(default_factory=dict)
    state: str = "JOB_STATE_DONE"
    port: int = 0


def crc32c(content: bytes) -> str:
    import google_crc32c

    return base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()


class Service(BaseHTTPRequestHandler):
    """Routes of both services."""

    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def log_message(self, *_):
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, result, status=200, **headers):
        content = result if isinstance(result, bytes) else json.dumps(result).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": len(content),
            **headers,
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def missing(self):
        self.answer({"error": {"code": 404, "message": "not found"}}, 404)

    def described(self, name: str) -> dict:
        content = self.cloud.objects[name]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        return {
            "kind": "storage#object", "name": name, "bucket": self.cloud.bucket, "size": str(len(content)),
            "md5Hash": md5, "crc32c": crc32c(content), "etag": md5, "generation": "1", "metageneration": "1",
            "id": f"{self.cloud.bucket}/{name}/1", "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z", "contentType": "application/octet-stream",
            "mediaLink": f"http://localhost:{self.cloud.port}/download/storage/v1/b/{self.cloud.bucket}/o/{name}",
        }  # fmt: skip

    def do_GET(self):
        url = urlsplit(self.path)
        query, path = {name: values[0] for name, values in parse_qs(url.query).items()}, url.path
        if path.startswith("/v1b3/"):
            if path.endswith("/messages"):
                self.answer({"jobMessages": []})
            else:
                self.answer({"id": "job-1", "name": "job", "currentState": self.cloud.state})
            return
        path = path.removeprefix("/download")
        parts = path.removeprefix("/storage/v1/b/").split("/", 2)
        if parts[0] != self.cloud.bucket:
            self.missing()
        elif len(parts) == 1:
            self.answer(
                {
                    "kind": "storage#bucket",
                    "name": parts[0],
                    "id": parts[0],
                    "softDeletePolicy": {"retentionDurationSeconds": "0"},
                }
            )
        elif len(parts) == 2:
            self.listed(query)
        elif (name := unquote(parts[2])) not in self.cloud.objects:
            self.missing()
        elif query.get("alt") == "media":
            self.media(self.cloud.objects[name])
        else:
            self.answer(self.described(name))

    def media(self, content: bytes):
        requested = self.headers.get("Range")
        if requested:
            first, _, last = requested.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            piece = content[int(first) : end]
            result = {
                "Content-Range": f"bytes {first}-{end - 1}/{len(content)}",
                "X-Goog-Hash": f"crc32c={crc32c(content)}",
            }
            self.answer(piece, 206 if piece else 416, **result)
        else:
            self.answer(content)

    def listed(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.cloud.objects):
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    items.append(self.described(name))
        self.answer({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def do_POST(self):
        url = urlsplit(self.path)
        query, body = {name: values[0] for name, values in parse_qs(url.query).items()}, self.body()
        if url.path.startswith("/v1b3/"):
            self.cloud.jobs.append(json.loads(body))
            self.answer({"id": "job-1", "name": "job", "currentState": "JOB_STATE_PENDING"})
        elif f"/b/{self.cloud.bucket}/o" not in url.path:
            self.missing()
        elif query.get("uploadType") == "multipart":
            boundary = self.headers["Content-Type"].split("boundary=")[1].strip("\"'").encode()
            about, content = (
                piece.split(b"\r\n\r\n" if b"\r\n\r\n" in piece else b"\n\n", 1)[1]
                for piece in body.split(b"--" + boundary)[1:3]
            )
            name = json.loads(about)["name"]
            self.cloud.objects[name] = (
                content.removesuffix(b"\r\n") if content.endswith(b"\r\n") else content.removesuffix(b"\n")
            )
            self.answer(self.described(name))
        else:
            name = query.get("name") or json.loads(body)["name"]
            token = hashlib.sha256(name.encode()).hexdigest()
            self.cloud.uploads[token] = name
            self.answer({}, Location=f"http://localhost:{self.cloud.port}/put/{token}")

    def do_PUT(self):
        content, name = self.body(), self.cloud.uploads[self.path.rsplit("/", 1)[1]]
        self.cloud.objects[name] = content
        self.answer(self.described(name))

    def do_DELETE(self):
        name = unquote(urlsplit(self.path).path.split("/o/", 1)[1])
        self.answer({}, 204 if self.cloud.objects.pop(name, None) is not None else 404)


def submitted(cloud: Cloud):
    """The pipeline of the last job."""
    from apache_beam.portability.api import beam_runner_api_pb2

    (name,) = [name for name in cloud.objects if name.endswith("pipeline.pb")][-1:]
    return beam_runner_api_pb2.Pipeline.FromString(cloud.objects[name])


@contextmanager
def services(**settings):
    """Both services on a free port."""
    cloud = Cloud(**settings)
    server = ThreadingHTTPServer(("localhost", 0), type("Bound", (Service,), {"cloud": cloud}))
    server.daemon_threads = True
    cloud.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield cloud
    finally:
        server.shutdown()
        server.server_close()
