"""A local page to try models on: `python -m zoo page`.

Drop, paste or choose an image, draw one, or take a scene of a checkpoint's own kind; what the checkpoint finds in it is
shown at once: boxes, masks, reconstruction, each object and what is known of it. The page is served by this process to
this machine alone, and needs nothing but a browser: no network, no further packages.
"""

import argparse
import base64
import contextlib
import io
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
from datamodules.storage.images import from_pillow
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
_SCENES = 32  # of a checkpoint's own kind, to choose from
_CROP = 56  # pixels of the picture of one object


class _BadRequestError(ValueError):
    """Something that the page's user can mend."""


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

    Args:
        checkpoints: What it offers.
        host: Address to listen at; other machines reach it only if it is one of the network's.
        port: 0 takes a free one.

    Raises:
        OSError: The port is taken, or the address is not this machine's.
    """

    daemon_threads = True

    def __init__(self, checkpoints: Checkpoints, host: str = "127.0.0.1", port: int = 8765) -> None:
        self.checkpoints, self.host = checkpoints, host
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.host}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        path, query = self._target()
        offered = self.server.checkpoints
        if path == "/":
            self._answer(lambda: PAGE.read_bytes(), "text/html; charset=utf-8")
        elif path == "/checkpoints":
            self._answer(lambda: _json(offered.describe()))
        elif path == "/scene":
            self._answer(lambda: offered.scene(query["checkpoint"], int(query.get("index", 0))), "image/png")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        path, query = self._target()
        if path != "/see":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= _LARGEST:
            self.close_connection = True  # what was sent is not read
            self._send(_json({"error": f"images of up to {_LARGEST // 2**20} MiB, please"}), HTTPStatus.BAD_REQUEST)
            return
        body = self.rfile.read(length)
        self._answer(lambda: _json(self._see(body, query)))

    def _see(self, body: bytes, query: dict[str, str]) -> dict[str, Any]:
        try:
            with Image.open(io.BytesIO(body)) as picture:
                picture.load()
        except Exception as error:  # Pillow raises a dozen kinds for damaged files
            raise _BadRequestError(f"this cannot be read as an image: {error}") from error
        threshold = float(query.get("threshold", 0.5))
        if not 0 <= threshold <= 1:
            raise _BadRequestError(f"threshold={threshold}: must be in [0, 1]")
        return self.server.checkpoints.see(query["checkpoint"], picture, threshold)

    def _target(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()}

    def _answer(self, content: Callable[[], bytes], kind: str = "application/json") -> None:
        # a page of another site must not read answers: browsers send its name as host if it resolves to this machine
        allowed = {"localhost", "127.0.0.1", "[::1]", self.server.host}
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in allowed and "0.0.0.0" not in allowed:
            self._send(_json({"error": "this host is not served"}), HTTPStatus.FORBIDDEN)
            return
        try:
            answer, status = content(), HTTPStatus.OK
        except Exception as error:
            kind, status = "application/json", HTTPStatus.BAD_REQUEST
            if isinstance(error, KeyError):
                reason = f"{error} is missing"
            elif isinstance(error, ValueError):  # wrong numbers, images, checkpoints
                reason = str(error)
            else:  # whatever it is, the page says so, and goes on
                reason, status = brief_reason(error), HTTPStatus.INTERNAL_SERVER_ERROR
            answer = _json({"error": reason})
        with contextlib.suppress(ConnectionError):  # who asked may have left
            self._send(answer, status, kind)

    def _send(self, content: bytes, status: HTTPStatus, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests."""


def _json(content: Any) -> bytes:
    return to_json(content).encode()


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
