"""A local page to try models on: `python -m zoo page`.

Drop, paste or choose an image, draw one, or take a scene of a checkpoint's own kind; what the checkpoint finds in it is
shown at once: boxes, masks, reconstruction, each object and what is known of it. The page is served by this process to
this machine alone, and needs nothing but a browser: no network, no further packages. Pages of other sites that are open
in the same browser cannot use it: requests name this machine, and those that send an image bring a token of the page.
"""

import argparse
import base64
import contextlib
import io
import ipaddress
import re
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import torch
from PIL import Image

from datamodules.errors import CacheError, DatasetCorruptError, DatasetNotFoundError
from datamodules.storage.converted import pair_of_sides
from datamodules.storage.images import from_pillow, open_image
from zoo.commands.arguments import VerbParser
from zoo.commands.show import test_scenes
from zoo.files import to_json
from zoo.pictures.draw import to_picture
from zoo.pictures.overlay import draw_objects, object_color
from zoo.prediction import brief_reason, pick_device, predict_batches, target_size, trained_size
from zoo.scene import FoundObject, Scene
from zoo.sharing import weights

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel

PAGE = Path(__file__).with_name("page.html")
_LARGEST = 32 * 2**20  # bytes of an image
_PIXELS = 2**24  # of an image; JPEG files of more are decoded in fewer
_DRAFT = 1024  # pixels of their shorter side, at least
_TOKEN = "X-Zoo-Token"  # the header that brings what only the page knows
_PLACES = 32  # connections at once
_SECONDS = 10.0  # for a request to arrive whole, and for an answer to leave
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::\d{1,5})?", re.ASCII)
_HEADERS = {  # of every answer: nothing from elsewhere is run or shown here, nor this elsewhere
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; script-src 'nonce-{token}'; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
_JSON = "application/json"
_SCENES = 32  # of a checkpoint's own kind, to choose from
_CROP = 56  # pixels of the picture of one object


class _BadRequestError(ValueError):
    """Something that the page's user can mend."""


class _RefusedError(ValueError):
    """A request that gets another answer than that it is wrong."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Checkpoints:
    """The models that the page offers, each loaded when it is first asked for.

    Args:
        sources: As for `zoo.load`: nothing else can be asked for.
        device: See `pick_device`.
    """

    def __init__(self, sources: Sequence[str], device: str = "auto") -> None:
        self.sources = [*sources]
        self.device = pick_device(device)
        self._models: dict[str, ObjectModel] = {}
        self._scenes: dict[str, Any] = {}
        self._lock = threading.Lock()  # one model at a time, whoever asks

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """What the checkpoints say of themselves.

        Raises:
            CheckpointError: One of them is not there, or damaged.
        """
        return {source: weights.read_record(weights.find(source)) for source in self.sources}

    def describe(self) -> list[dict[str, Any]]:
        """The checkpoints, as JSON."""
        return [
            {
                "name": source,
                "model": record["class"],
                "data": (record.get("data") or {}).get("name"),
                "channels": record["init_args"].get("channels", 3),
                "size": self._size(record),
            }
            for source, record in self.records.items()
        ]

    def see(self, source: str, picture: Image.Image, threshold: float) -> dict[str, Any]:
        """What a checkpoint finds in an image, as JSON with PNG files inside.

        Args:
            source: One of the checkpoints.
            picture: Any; it is resized to the size of the checkpoint's training images, its proportions kept.
            threshold: Slots with at least this presence are objects, in [0, 1].

        Raises:
            ValueError: There is no such checkpoint, or the model does not take the image.
        """
        image, refused = from_pillow(picture), list[str]()
        with self._lock:
            model = self._load(source)
            size = target_size(model, self._size(self.records[source]))
            start = time.perf_counter()
            parts = [*predict_batches(model, [image], 1, size, "pad", lambda _, reason: refused.append(reason))]
            seconds = time.perf_counter() - start
        if refused:
            raise _BadRequestError(f"this image is skipped: {refused[0]}")
        ((_, scene),) = parts
        image, size_given = scene.image[0], (picture.height, picture.width)
        pairs = [  # in the pixels of the image as it was given, and of what the model saw
            (found, own)
            for found, own in zip(scene.objects(threshold)[0], Scene.objects(scene, threshold)[0], strict=True)
            if _centred_in(found, size_given)  # the bars beside an image of other proportions are nothing
        ]
        objects, seen = [found for found, _ in pairs], [own for _, own in pairs]
        mask = None if scene.mask is None else scene.mask[0].numpy()
        crops = scene.crops(size=_CROP)[0]
        return {
            "found": _png(draw_objects(image, seen, mask)),
            "reconstruction": _png(to_picture(scene.reconstruction[0], 1)),
            "size": list(image.shape[-2:]),
            "seconds": seconds,
            "objects": [
                {
                    "box": [round(v, 1) for v in found["box"]],
                    "score": found["score"],
                    "category": found["category"],
                    "color": object_color(found, mask is not None),
                    "pixels": None if mask is None else int((mask == found["slot"] + 1).sum()),
                    "picture": _png(to_picture(crops[found["slot"]], 1)),
                }
                for found in objects
            ],
        }

    def scene(self, source: str, index: int) -> bytes:
        """A scene of the kind that a checkpoint was trained on, or one that it imagines, as a PNG file."""
        with self._lock:
            model = self._load(source)
            if source not in self._scenes:
                self._scenes[source] = self._own_scenes(model, source)
            images = self._scenes[source]
        return base64.b64decode(_png(to_picture(images[index % len(images)], 1)))

    def _own_scenes(self, model: "ObjectModel", source: str) -> torch.Tensor:
        try:
            batch = test_scenes(model.data_record, _SCENES)
            image = batch["image"]
            occupied = batch["valid"].any(1) if "valid" in batch else torch.ones(len(image), dtype=torch.bool)
            return image[(~occupied).int().argsort(stable=True)]  # the first view has something to find
        except (ValueError, DatasetNotFoundError, CacheError, DatasetCorruptError) as error:
            own: Any = model
            if not hasattr(model, "generate"):
                raise _BadRequestError(f"no scenes for {source}: {error}") from error
            size = target_size(model, self._size(self.records[source])) or (48, 48)
            return own.generate(_SCENES, size, torch.Generator().manual_seed(0)).reconstruction

    def _load(self, source: str) -> "ObjectModel":
        if source not in self.sources:
            raise _BadRequestError(f"there is no checkpoint {source!r} here, but {', '.join(self.sources)}")
        if source not in self._models:
            self._models[source] = weights.load(source).to(self.device)
        return self._models[source]

    @staticmethod
    def _size(record: dict[str, Any]) -> list[int] | None:
        """(H, W) that a checkpoint reads, or was trained on."""
        own = record["init_args"].get("image_size")
        size = trained_size(record.get("data")) if own is None else pair_of_sides(own)
        return None if size is None else [*size]


def _centred_in(found: FoundObject, size: tuple[int, int]) -> bool:
    """Whether the middle of a box lies in an image of `size` (H, W)."""
    x1, y1, x2, y2 = found["box"]
    return 0 <= x1 + x2 <= 2 * size[1] and 0 <= y1 + y2 <= 2 * size[0]


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


class PageServer(ThreadingHTTPServer):
    """Serves the page and answers what it asks.

    It holds a bounded number of connections, each for a bounded time, and one image at a time.

    Args:
        checkpoints: What it offers.
        host: Address to listen at; other machines reach it only if it is one of the network's.
        port: 0 takes a free one.

    Attributes:
        token: What requests that send an image must bring, new at each start.
        names: Under which it may be asked for, besides numeric addresses: a page elsewhere may make a name of its own
            mean this machine, and would then read the answers.

    Raises:
        OSError: The port is taken, or the address is not this machine's.
    """

    daemon_threads = True
    request_queue_size = _PLACES

    def __init__(self, checkpoints: Checkpoints, host: str = "127.0.0.1", port: int = 8765) -> None:
        self.checkpoints, self.host = checkpoints, host
        self.token = secrets.token_urlsafe(24)
        self.names = {name.lower() for name in ("localhost", host, socket.gethostname(), socket.getfqdn())}
        self.seeing = threading.Lock()
        self._places = threading.BoundedSemaphore(_PLACES)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread of its own, if there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, and give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave, and a line of all else."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            print(f"zoo: {type(error).__name__}: {error}", file=sys.stderr)


class _Timely(io.RawIOBase):
    """What comes from a socket until some time from now, however slowly."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.end = connection, time.monotonic() + _SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Timely(self.connection))

    def do_GET(self) -> None:
        offered = self.server.checkpoints

        def content(path: str, query: dict[str, str]) -> tuple[bytes, str]:
            if path == "/":
                page = PAGE.read_text(encoding="utf-8").replace("{{token}}", self.server.token)
                return page.encode(), "text/html; charset=utf-8"
            if path == "/checkpoints":
                return _json(offered.describe()), _JSON
            if path == "/scene":
                return offered.scene(query["checkpoint"], int(query.get("index", 0))), "image/png"
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page: Not Found")

        self._answer(content)

    def do_POST(self) -> None:
        def content(path: str, query: dict[str, str]) -> tuple[bytes, str]:
            if path != "/see":
                raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page: Not Found")
            if not secrets.compare_digest(self.headers.get(_TOKEN, "").encode(), self.server.token.encode()):
                raise _RefusedError(HTTPStatus.FORBIDDEN, "this page is of an earlier start: load it again")
            body = self._body()
            with self.server.seeing:  # one image at a time is decoded
                return _json(self._see(body, query)), _JSON

        self._answer(content)

    def _body(self) -> bytes:
        """What was sent, as long as it was announced."""
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or self.headers.get("Transfer-Encoding") is not None:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "requests say once, by Content-Length, how long they are")
        text = lengths[0].strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise _BadRequestError(f"Content-Length: {text[:40]!r} is no number of bytes")
        if not 0 < int(text) <= _LARGEST:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if int(text) else HTTPStatus.BAD_REQUEST
            raise _RefusedError(status, f"images of up to {_LARGEST // 2**20} MiB, please")
        body = self.rfile.read(int(text))
        if len(body) < int(text):
            raise _BadRequestError(f"{len(body)} bytes came, Content-Length says {text}")
        return body

    def _see(self, body: bytes, query: dict[str, str]) -> dict[str, Any]:
        try:
            with open_image(io.BytesIO(body)) as picture:
                if picture.width * picture.height > _PIXELS:
                    picture.draft(None, (_DRAFT, _DRAFT))  # where the format can be decoded in fewer pixels
                if picture.width * picture.height > _PIXELS:
                    raise ValueError(f"it has {picture.width} x {picture.height} pixels, more than {_PIXELS} in all")
                picture.load()
        except Exception as error:  # Pillow raises a dozen kinds for damaged files
            raise _BadRequestError(f"this cannot be read as an image: {error}") from error
        threshold = float(query.get("threshold", 0.5))
        if not 0 <= threshold <= 1:
            raise _BadRequestError(f"threshold={threshold}: must be in [0, 1]")
        return self.server.checkpoints.see(query["checkpoint"], picture, threshold)

    def _check_origin(self) -> None:
        """Refuse what another site's page asks for."""
        host = self.headers.get("Host", "")
        name = _HOST.fullmatch(host)
        if name is None or not (name[1].lower() in self.server.names or _is_address(name[1])):
            raise _RefusedError(HTTPStatus.FORBIDDEN, f"this host is not served: {host[:80]!r}")
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "pages of other origins are not served")
        page = self.path.partition("?")[0] == "/"  # to which any page may link
        if not page and self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "pages of other sites are not served")

    def _answer(self, content: Callable[[str, dict[str, str]], tuple[bytes, str]]) -> None:
        kind = _JSON
        try:
            self._check_origin()
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query, max_num_fields=20).items()}
            (answer, kind), status = content(parts.path, query), HTTPStatus.OK
        except TimeoutError:
            status, answer = HTTPStatus.REQUEST_TIMEOUT, _json({"error": f"it did not arrive within {_SECONDS:g} s"})
        except Exception as error:
            status = HTTPStatus.BAD_REQUEST
            if isinstance(error, _RefusedError):
                status, reason = error.status, str(error)
            elif isinstance(error, KeyError):
                reason = f"{error} is missing"
            elif isinstance(error, ValueError):  # wrong numbers, images, checkpoints
                reason = str(error)
            else:  # whatever it is, the page says so, and goes on
                reason, status = brief_reason(error), HTTPStatus.INTERNAL_SERVER_ERROR
            answer = _json({"error": reason})
        with contextlib.suppress(OSError):  # who asked may have left
            self._send(answer, status, kind)

    def _send(self, content: bytes, status: HTTPStatus, kind: str) -> None:
        self.connection.settimeout(_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value.replace("{token}", self.server.token))
        self.end_headers()
        self.wfile.write(content)
        if status is not HTTPStatus.OK:
            # Closed with something unread, the connection would be reset, and the answer lost.
            self.connection.shutdown(socket.SHUT_WR)
            self.rfile = io.BufferedReader(_Timely(self.connection))
            left = 2 * _LARGEST
            while left > 0 and (piece := self.rfile.read1(2**16)):
                left -= len(piece)

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests."""


def _json(content: Any) -> bytes:
    return to_json(content).encode()


def _is_address(host: str) -> bool:
    """Whether it is numeric, which nobody else can make mean this machine."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def main(args: list[str] | None = None) -> None:
    """Parse the command line and serve until it is interrupted."""
    parser = VerbParser(
        prog="python -m zoo page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt_path",
        nargs="+",
        default=[],
        metavar="CHECKPOINT",
        help="offered beside those that come with the zoo: run folders, files, best, last, ids on the hub",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (8765)")
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    try:
        checkpoints = Checkpoints([*options.ckpt_path, *weights.list_weights()], options.device)
        checkpoints.describe()  # so that mistakes are known at once
        server = PageServer(checkpoints, options.host, options.port)
    except (ValueError, OSError, OverflowError) as error:
        sys.exit(f"zoo: {error}")
    with server:
        print(f"{server.url} (Ctrl+C ends it)", flush=True)
        if options.open:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
