import gzip
import hashlib
import http.server
import io
import os
import re
import ssl
import tarfile
import threading
import tracemalloc
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from datamodules.storage import archives
from datamodules.storage.archives import download, unpack

CONTENT = os.urandom(300_000)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; of those in `cut` only so many bytes, once, as if the connection broke."""

    files: dict[str, bytes] = {}
    cut: dict[str, int] = {}
    ranges = True
    requests: list[str | None] = []

    def do_GET(self) -> None:
        content, asked = self.files.get(self.path), self.headers["Range"]
        self.requests.append(asked)
        if content is None:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.cut.pop(self.path, len(content))])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    Server.files, Server.cut, Server.ranges, Server.requests = {"/x.bin": CONTENT}, {}, True, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_appears_whole_and_is_not_repeated(server, tmp_path):
    path = download(f"{server}/x.bin", tmp_path / "new" / "x.bin", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    assert not list(tmp_path.rglob("*.part"))
    download(f"{server}/x.bin", path)
    assert Server.requests == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_was(server, tmp_path, ranges):
    Server.cut, Server.ranges = {"/x.bin": 100_000}, ranges
    with pytest.raises(DatasetNotFoundError, match=r"x\.bin.*100000 bytes are kept.*try again"):
        download(f"{server}/x.bin", tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()
    assert download(f"{server}/x.bin", tmp_path / "x.bin").read_bytes() == CONTENT
    assert Server.requests == [None, "bytes=100000-"]


def test_a_download_that_was_killed_after_its_last_byte_is_finished(server, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    assert download(f"{server}/x.bin", tmp_path / "x.bin").read_bytes() == CONTENT


def test_another_file_is_refused_and_deleted(server, tmp_path):
    for before in (b"", b"stale"):
        if before:
            (tmp_path / "x.bin").write_bytes(before)
        with pytest.raises(DatasetCorruptError, match=r"SHA-256 is .*expected 000"):
            download(f"{server}/x.bin", tmp_path / "x.bin", sha256="0" * 64)
        assert not (tmp_path / "x.bin").exists()


def test_what_is_not_there_and_where_it_cannot_go(server, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "TIMEOUT", 2)
    for url in (f"{server}/y.bin", "http://127.0.0.1:9/x.bin", (tmp_path / "z").as_uri()):
        with pytest.raises(DatasetNotFoundError, match=rf"{re.escape(url)}.*by other means.*x\.bin"):
            download(url, tmp_path / "x.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"file"):
        download(f"{server}/x.bin", tmp_path / "file" / "x.bin")


@pytest.mark.parametrize("error", [OSError(113, "No route to host"), ssl.SSLError("bad record"), TimeoutError()])
def test_errors_of_the_network_are_not_called_a_full_disk(server, tmp_path, monkeypatch, error):
    answer = urllib.request.OpenerDirector.open

    def break_off(*args: object, **kwargs: object) -> object:
        response, rest = answer(*args, **kwargs), [b"begun"]
        monkeypatch.setattr(response, "read", lambda _: rest.pop() if rest else _raise(error))
        return response

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", break_off)
    with pytest.raises(DatasetNotFoundError, match=r"5 bytes are kept in .*x\.bin\.part"):
        download(f"{server}/x.bin", tmp_path / "x.bin")


def test_a_full_disk_is_not_called_an_error_of_the_network(server, tmp_path):
    (tmp_path / "x.bin.part").symlink_to("/dev/full")
    with pytest.raises(CacheError, match=r"cannot write .*x\.bin\.part.*No space left"):
        download(f"{server}/x.bin", tmp_path / "x.bin")


def _raise(error: Exception) -> None:
    raise error


FILES = {"a/1.txt": b"one" * 5000, "a/b/2.txt": b"two", "3.txt": b""}


def pack(path: Path, files: dict[str, bytes] = FILES, **odd: object) -> Path:
    """A zip or tar archive; `odd` are attributes of a last member of a tar file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("a")
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, {".gz": "w:gz", ".xz": "w:xz"}.get(path.suffix, "w")) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if odd:
            member = tarfile.TarInfo("odd")
            for key, value in odd.items():
                setattr(member, key, value)
            tar.addfile(member)
    return path


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz"])
def test_archives_are_unpacked_over_what_is_there(tmp_path, name):
    folder = tmp_path / "to"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.txt").write_text("old")
    (folder / "a" / "mine.txt").write_text("mine")
    unpack(pack(tmp_path / name), folder)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {**FILES, "a/mine.txt": b"mine"}


@pytest.mark.parametrize(
    "odd",
    [
        {"name": "../out.txt"}, {"name": "/tmp/out.txt"}, {"name": "a/../../out.txt"}, {"name": "C:\\out.txt"},
        {"name": "..\\out.txt"}, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "3.txt"}, {"type": tarfile.FIFOTYPE},
    ],
)  # fmt: skip
def test_what_could_leave_the_folder_is_refused(tmp_path, odd):
    with pytest.raises(DatasetCorruptError, match=r"x\.tar.*link.*nothing of it was kept"):
        unpack(pack(tmp_path / "x.tar", **odd), tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())
    if "type" not in odd:
        with pytest.raises(DatasetCorruptError, match="outside"):
            unpack(pack(tmp_path / "x.zip", {odd["name"]: b""}), tmp_path / "to")
    assert sorted(path.name for path in tmp_path.iterdir()) in (["to", "x.tar"], ["to", "x.tar", "x.zip"])


def test_links_in_a_zip_file_are_refused(tmp_path):
    link = zipfile.ZipInfo("odd")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DatasetCorruptError, match="link"):
        unpack(tmp_path / "x.zip", tmp_path / "to")


@pytest.mark.parametrize("damage", ["end", "header"])
def test_a_tar_file_without_checksum_is_read_to_its_end(tmp_path, damage):
    content = bytearray(pack(tmp_path / "x.tar").read_bytes())
    if damage == "end":  # between two members
        del content[512 + 15_360 :]
    else:  # of the second member
        content[512 + 15_360 + 10] ^= 1
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DatasetCorruptError, match=r"x\.tar is damaged.*before the block that marks its end"):
        unpack(tmp_path / "x.tar", tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize(
    "damage", ["cut", "bits in an xz file", "cut short by a few bytes", "checksum", "bit in a zip", "none"]
)
def test_damaged_archives_leave_nothing(tmp_path, damage):
    name = {"bit in a zip": "x.zip", "bits in an xz file": "x.tar.xz"}.get(damage, "x.tar.gz")
    path = pack(tmp_path / name, {"a": os.urandom(100_000)})
    content = bytearray(path.read_bytes())
    if damage == "bits in an xz file":
        content[50_000:50_010] = bytes(10)
    elif damage == "cut":
        del content[50_000:]
    elif damage == "cut short by a few bytes":
        del content[-6:]
    elif damage == "checksum":
        content[-5] ^= 1
    elif damage == "bit in a zip":
        content[50_000] ^= 1
    else:
        content[:] = gzip.compress(b"<html>no such file</html>")
    path.write_bytes(content)
    with pytest.raises(DatasetCorruptError, match=r"x\.(zip|tar\.gz|tar\.xz) is damaged or no archive"):
        unpack(path, tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())
    with pytest.raises(DatasetNotFoundError, match="not there"):
        unpack(tmp_path / "none.zip", tmp_path / "to")


def header(name: str, kind: bytes, size: int) -> bytes:
    """A block of a tar file that begins a member."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.USTAR_FORMAT)


def sparse(path: Path) -> None:
    """A file of 200 MB in 512 bytes, by pax headers."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a")
        member.pax_headers = {"GNU.sparse.map": "0,512", "GNU.sparse.size": "200000000", "GNU.sparse.numblocks": "1"}
        member.size = 512
        tar.addfile(member, io.BytesIO(bytes(512)))


def encrypted(path: Path) -> None:
    content = bytearray(pack(path).read_bytes())
    content[content.index(b"PK\x01\x02", 0) + 8] |= 1  # of the folder
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[at + 8] |= 1
    path.write_bytes(content)


def written(*blocks: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(gzip.compress(b"".join(blocks) + bytes(1024)))


ODD = {
    "sparse.tar": (sparse, "sparse file"),
    "encrypted.zip": (encrypted, "is encrypted"),
    "nested.tar.gz": (
        written(*[header("a", tarfile.GNUTYPE_LONGNAME, 2) + b"x\0".ljust(512, b"\0")] * 3000),
        "damaged",
    ),
    "long_name.tar.gz": (written(header("a", tarfile.GNUTYPE_LONGNAME, 10**8), bytes(10**8)), "announces 100000000"),
    "long_pax.tar.gz": (written(header("a", tarfile.XHDTYPE, 10**8), bytes(10**8)), "announces 100000000"),
    "deep.zip": (lambda path: pack(path, {"a/" * 40 + "b": b""}), "too long a path"),
    "wide.zip": (lambda path: pack(path, {"a" * 300: b""}), "too long a path"),
    "twice.tar": (lambda path: pack(path, {"a": b"1", "a/b": b"2"}), "both a file and a folder"),
}


@pytest.mark.parametrize("name", ODD)
def test_archives_that_are_made_to_exhaust_are_refused_at_no_cost(tmp_path, name):
    make, message = ODD[name]
    make(tmp_path / name)
    tracemalloc.start()
    with pytest.raises(DatasetCorruptError, match=message) as caught:
        unpack(tmp_path / name, tmp_path / "to")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_bomb_is_given_up_before_it_fills_the_disk(tmp_path, name):
    path = pack(tmp_path / name, {"zeros": bytes(20_000_000), "more": bytes(1000)})
    unpack(path, tmp_path / "to", largest=20_001_000)
    with pytest.raises(DatasetCorruptError, match="larger than"):
        unpack(path, tmp_path / "other", largest=20_000_999)
    assert not list((tmp_path / "other").iterdir())


def test_a_tar_file_without_checksums_says_so(tmp_path, caplog):
    unpack(pack(tmp_path / "x.tar.gz"), tmp_path / "to")
    assert not caplog.text
    unpack(pack(tmp_path / "x.tar"), tmp_path / "to")
    assert "x.tar has no checksum of its files" in caplog.text
