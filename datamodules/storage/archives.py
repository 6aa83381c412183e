"""Fetching what others publish: downloads that can be interrupted, and archives that are unpacked safely."""

import contextlib
import hashlib
import http.client
import logging
import lzma
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm  # type: ignore[import-untyped]

from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from datamodules.storage.cache import FIX, locked

log = logging.getLogger(__name__)

TIMEOUT = 20.0  # seconds without an answer
PIECE = 2**20  # bytes at a time
UNPACKING = ".unpacking."  # how folders begin whose content is not complete yet; a killed process leaves one behind
QUIETLY = {"unit": "B", "unit_scale": True, "delay": 1.5, "leave": False, "disable": None}  # how progress is shown


def download(url: str, path: Path, *, sha256: str | None = None) -> Path:
    """Download a file, going on where an earlier attempt ended; it appears at `path` whole or not at all.

    What has come so far is kept beside it as `NAME.part`. Several processes may ask at once: one downloads.

    Args:
        url: Where the file is: http, https or file.
        path: Where it goes; nothing is done if it is there and its digest is right.
        sha256: Hexadecimal digest of its content, where one is published.

    Returns:
        `path`.

    Raises:
        DatasetNotFoundError: The server cannot be reached, lacks the file, or breaks off.
        DatasetCorruptError: The digest is another; what was downloaded is deleted.
        CacheError: The folder cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    with locked(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            try:
                _fetch(url, part)
            except CacheError:
                raise
            except (OSError, http.client.HTTPException) as error:  # of the network: URLError is an OSError too
                size = f"; {part.stat().st_size} bytes are kept in {part}" if part.exists() else ""
                raise DatasetNotFoundError(
                    f"cannot download {url} ({error}){size}; try again, which goes on from there, or download it by "
                    f"other means and put it at {path}"
                ) from error
            _verify(part, url, sha256)
            part.replace(path)
        elif sha256 is not None:
            _verify(path, url, sha256)
    return path


def _fetch(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `url`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.build_opener().open(request, timeout=TIMEOUT)  # proxies as they are now
    except urllib.error.HTTPError as error:
        # Nothing lies past the end of a file that had been downloaded to its last byte.
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return
        if error.code == 416:
            part.unlink()  # another file than the one begun
        raise
    with response:
        if response.status != 206:  # the server starts anew (file URLs have no status)
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        bar = tqdm(desc=part.stem, total=total, initial=have, **QUIETLY)
        with _writing(part):
            file = part.open("ab" if have else "wb")
        with file, bar:
            while piece := response.read(PIECE):
                with _writing(part):
                    file.write(piece)
                    file.flush()
                have += len(piece)
                bar.update(len(piece))
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


@contextlib.contextmanager
def _writing(path: Path) -> Generator[None, None, None]:
    """Tell errors of the disk from those of the network, which may be of the same type."""
    try:
        yield
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error}; {FIX}") from error


def _verify(path: Path, url: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        path.unlink()
        raise DatasetCorruptError(
            f"{url} is not the file that was published: its SHA-256 is {found}, expected {sha256}; it was deleted: try "
            "again, or download it by other means"
        )


# RuntimeError: zipfile's for what is encrypted, and RecursionError, of headers within headers
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError),
    *(RuntimeError, ValueError, OverflowError),
)
_COMPRESSED = {"gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ"}
_HEADER = 2**20  # bytes of a tar file's own records, of long names say, which tarfile reads at once
_DEPTH, _NAME = 32, 255  # of folders within folders, and bytes of one's name
_SMALL, _RATIO = 2**30, 100  # bytes that any archive may hold, and how many times its own size others may


def unpack(archive: Path, folder: Path, *, largest: int | None = None) -> None:
    """Unpack a zip or tar file, compressed or not, reading it to the end and so checking its checksums.

    A tar file that is not compressed has none: what is damaged in it shows only where its files have checksums of their
    own, as PNG files do, or by the hash that `download` compares. A warning says so.

    Args:
        archive: The file.
        folder: Where its content goes, made if need be; files of the same names are replaced.
        largest: Bytes that its content may have; null: 1 GiB, or 100 times the archive's own, whichever is more.

    Raises:
        DatasetNotFoundError: There is no such file.
        DatasetCorruptError: It is damaged, encrypted or no archive, its content is larger than `largest`, or it holds
            anything but files and folders that stay inside `folder`: links, devices, sparse files, absolute paths,
            paths with `..` or of more than 32 folders. Nothing of it is left in `folder`.
        CacheError: The folder cannot be written.
    """
    if not archive.is_file():
        raise DatasetNotFoundError(f"{archive} is not there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=UNPACKING))
    except OSError as error:
        raise CacheError(f"cannot write the folder {folder}: {error}; {FIX}") from error
    left = max(_SMALL, _RATIO * archive.stat().st_size) if largest is None else largest
    try:
        with contextlib.closing(_members(archive)) as members:
            for name, content in members:
                target = staging / name
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file = target.open("wb")
                except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
                    raise ValueError(f"{name} is both a file and a folder") from error
                with file:
                    while piece := content.read(PIECE):
                        left -= len(piece)
                        if left < 0:
                            raise ValueError("its content is larger than `largest` admits, as of a bomb")
                        file.write(piece)
        for source in sorted(path for path in staging.rglob("*") if path.is_file()):
            target = folder / source.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    except DatasetCorruptError:
        raise
    except (*_DAMAGED, OSError) as error:
        if not isinstance(error, OSError) or error.errno is None:  # gzip's error of a wrong checksum has no number
            said = " ".join(str(error).split())
            raise DatasetCorruptError(
                f"{archive} is damaged or no archive ({said}); delete it to have it downloaded again"
            ) from error
        raise CacheError(f"cannot unpack {archive} in {folder}: {error}; {FIX}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _members(archive: Path) -> Generator[tuple[str, IO[bytes]], None, None]:
    """Names and contents of the files in an archive, in their order."""
    size = archive.stat().st_size
    bar = tqdm(desc=f"unpacking {archive.name}", total=size, **QUIETLY)
    with archive.open("rb") as raw, bar:
        if zipfile.is_zipfile(raw):
            with zipfile.ZipFile(raw) as zipped:
                for entry in zipped.infolist():
                    unix = entry.external_attr >> 28  # of a Unix mode: 0 unknown, 4 folder, 8 file, 10 link
                    _check_name(archive, entry.filename, unix in (0, 4, 8))
                    if entry.flag_bits & 1:
                        raise zipfile.BadZipFile(f"{entry.filename} is encrypted")
                    if not entry.is_dir():
                        with zipped.open(entry) as content:
                            yield entry.filename, content
                    bar.update(entry.compress_size)
            return
        raw.seek(0)
        begins = raw.read(5)
        raw.seek(0)
        # Not "r:*": where a file's first header is refused, that goes on to read the compressed bytes as a tar file.
        mode: Any = "r:" + next((kind for kind, magic in _COMPRESSED.items() if begins.startswith(magic)), "")
        with tarfile.open(fileobj=raw, mode=mode, tarinfo=_Member) as tar:
            for member in tar:
                _check_name(archive, member.name, (member.isfile() or member.isdir()) and not member.issparse())
                if member.isfile():
                    yield member.name, _content(tar, member)
                bar.update(raw.tell() - bar.n)
            stream: Any = tar.fileobj
            if stream is raw:
                log.warning("%s has no checksum of its files: compare its hash with a published one", archive)
                # Not compressed and so without a checksum; a damaged header ends it for tarfile as the last block does.
                raw.seek(tar.offset)
                if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it ends before the block that marks its end")
            while stream.read(PIECE):  # the checksum comes after the last member
                pass


class _Member(tarfile.TarInfo):
    """A tar file's member whose header does not make tarfile read more than a name's worth."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.size > _HEADER and member.type in _OF_TAR:
            raise tarfile.ReadError(f"a header announces {member.size} bytes")
        return member


_OF_TAR = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None  # only links and folders have none
    return content


def _check_name(archive: Path, name: str, plain: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"  # of Windows
    long = len(path.parts) > _DEPTH or any(len(part.encode(errors="replace")) > _NAME for part in path.parts)
    if not plain or path.is_absolute() or drive or ".." in path.parts or long:
        raise DatasetCorruptError(
            f"{archive} holds {name[:_NAME]!r}, which is a link, a device, a sparse file, too long a path or outside "
            "the folder it is unpacked to: it is not the published archive; nothing of it was kept. Delete it"
        )
