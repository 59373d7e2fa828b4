"""Recordings behind HTTP: only "not found" means missing."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from corpus import files
from corpus.adapters import read_jsonl
from corpus.audio import decode, probe
from corpus.records import Reject, Utterance

pytest.importorskip("aiohttp", reason="fsspec opens http:// with it")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[tuple[str, list[str]]]:
    """URL of a server whose paths name its answers (`/503` fails, `/twice503.wav` fails twice), and its requests."""
    monkeypatch.setattr(files, "RETRY_SECONDS", (0.01, 0.01, 0.01))
    soundfile.write(tmp_path / "a.wav", np.ones(16000) / 4, 16000)
    for name in ("long.flac", "long.mp3", "long.ogg"):
        soundfile.write(tmp_path / name, np.random.default_rng(0).standard_normal(80_000) / 10, 16000)
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    requests: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            requests.append(self.path)
            name = self.path.strip("/")
            status = int(name) if name.isdigit() else 200
            if name == "twice503.wav" and requests.count(self.path) <= 4:
                status = 503
            self.send_response(status)
            body = contents.get(name, contents["a.wav"]) if status == 200 else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_address[1]}", requests
        service.shutdown()


def test_a_recording_behind_http_is_read(server):
    header = probe(f"{server[0]}/a.wav")
    assert header[:3] == (16000, 16000, 1)
    assert len(decode(Utterance("u", f"{server[0]}/a.wav", 16000))) == 16000


@pytest.mark.parametrize("name", ["long.flac", "long.mp3", "long.ogg"])
def test_a_stretch_behind_http_has_the_samples_of_the_local_file(server, tmp_path, name):
    header = probe(tmp_path / name)
    assert probe(f"{server[0]}/{name}")[:4] == header[:4]
    for first, frames in ((0, header.frames), (30_000, 20_000)):
        here, there = (
            decode(Utterance("u", source, frames, 16000, first))
            for source in (str(tmp_path / name), f"{server[0]}/{name}")
        )
        assert np.array_equal(here, there)


@pytest.mark.parametrize("status", [404, 410])
def test_only_not_found_is_missing(server, status):
    with pytest.raises(Reject, match=r"audio\.missing"):
        probe(f"{server[0]}/{status}")


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_any_other_answer_is_retried_and_then_fails_with_its_status(server, status):
    with pytest.raises(ValueError, match=f"cannot be read: {status}, message") as raised:
        probe(f"{server[0]}/{status}")
    assert not isinstance(raised.value, Reject)
    assert server[1].count(f"/{status}") >= 1 + len(files.RETRY_SECONDS)


def test_a_server_that_recovers_is_no_failure(server):
    assert probe(f"{server[0]}/twice503.wav").frames == 16000


def test_a_refused_connection_is_no_missing_recording(server, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.wav: cannot be read: Cannot connect to host") as raised:
        probe("http://127.0.0.1:9/a.wav")
    assert not isinstance(raised.value, Reject)


def test_a_failed_request_is_not_blamed_on_the_manifest(server, tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "a", "audio": f"{server[0]}/503"}))
    with pytest.raises(ValueError, match=f"^{server[0]}/503: cannot be read: 503, message"):
        list(read_jsonl(tmp_path / "m.jsonl"))


class Response(Exception):
    """As botocore raises them."""

    def __init__(self, status: int):
        super().__init__(f"status {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(("status", "missing"), [(404, True), (403, False), (503, False)])
def test_the_status_behind_an_error_of_s3_decides(status, missing):
    error = FileNotFoundError("s3://speech/a.wav")
    error.__cause__ = Response(status)
    assert files.is_missing(error) == missing
