"""Fetching goes on where it stopped, checks what it got, and leaves nothing half done in the file's place."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drumfire.sut import fetch as fetching
from drumfire.sut.fetch import FetchError, check, fetch

CONTENT = bytes(range(256)) * 20_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.cut, self.knows_ranges = CONTENT, list[str | None](), len(CONTENT), True
        """``cut``: the connection ends after that many bytes of an answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.onnx"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        content, start = self.server.content, 0
        if self.path != "/weights.onnx":
            self.send_error(404, "no such file")
            return
        if asked and self.server.knows_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_a_file_and_its_record(tmp_path: Path, server: Server) -> None:
    path, told = tmp_path / "new" / "weights.onnx", list[tuple[int, int | None]]()
    assert fetch(server.url, path, lambda done, whole: told.append((done, whole))) == DIGEST
    assert path.read_bytes() == CONTENT
    assert (tmp_path / "new" / "weights.onnx.sha256").read_text() == f"{DIGEST}  weights.onnx\n"
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert sorted(one.name for one in path.parent.iterdir()) == ["weights.onnx", "weights.onnx.sha256"]
    assert fetch(server.url, path) == DIGEST
    assert len(server.ranges) == 1  # what is there is not fetched again


def test_it_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "weights.onnx"
    server.cut = 1_000_000
    with pytest.raises(
        FetchError, match=r"the connection ended after 1000000 of 5120000 bytes; run the same command again to resume"
    ):
        fetch(server.url, path)
    assert not path.exists()
    server.cut = len(CONTENT)
    assert fetch(server.url, path) == DIGEST
    assert server.ranges == [None, "bytes=1000000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_sends_all_again(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "weights.onnx"
    path.with_name("weights.onnx.part").write_bytes(b"x" * 1000)
    server.knows_ranges = False
    assert fetch(server.url, path) == DIGEST


def test_a_part_that_is_whole(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "weights.onnx"
    path.with_name("weights.onnx.part").write_bytes(CONTENT)
    assert fetch(server.url, path) == DIGEST


def test_a_part_of_another_file_starts_anew(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "weights.onnx"
    path.with_name("weights.onnx.part").write_bytes(CONTENT + b"more")
    with pytest.raises(FetchError, match="416"):
        fetch(server.url, path)
    assert fetch(server.url, path) == DIGEST


def test_another_content_than_before_is_refused(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "weights.onnx"
    fetch(server.url, path)
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(FetchError, match=f"has SHA-256 [0-9a-f]+, but .*weights.onnx.sha256 says {DIGEST}"):
        fetch(server.url, path)
    assert [one.name for one in tmp_path.iterdir()] == ["weights.onnx.sha256"]


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"first")
    assert check(path) == hashlib.sha256(b"first").hexdigest()
    path.write_bytes(b"other")
    with pytest.raises(FetchError, match=r"weights\.onnx has SHA-256 .* says .*: if the file was changed on purpose"):
        check(path)
    path.with_name("weights.onnx.sha256").write_text("")
    with pytest.raises(FetchError, match="is empty or damaged: remove it"):
        check(path)


def test_what_can_not_be_had(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.onnx"
    with pytest.raises(FetchError, match=r"^cannot fetch .*elsewhere: .*404.*run the same command again to resume$"):
        fetch(server.url.replace("weights.onnx", "elsewhere"), path)
    with pytest.raises(FetchError, match=r"^cannot fetch no-url"):
        fetch("no-url", path)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(FetchError, match=r"5 MB needed, but .* has 0 MB free"):
        fetch(server.url, path)


def test_a_record_that_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"first")
    path.with_name("weights.onnx.sha256").mkdir()
    with pytest.raises(FetchError, match=r"^cannot check .*weights\.onnx: .*; fix that, or set MODEL_DIR$"):
        check(path)
