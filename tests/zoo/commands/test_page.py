"""The local page: over HTTP, and in a headless browser where there is one."""

import base64
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import zoo
from zoo.commands import page
from zoo.commands.page import Checkpoints, PageServer
from zoo.models import SPAIR
from zoo.pictures.overlay import object_color
from zoo.sharing import weights

BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    names = ["spair-multimnist-recipe", "discrete-air-multisprites-recipe"]
    with PageServer(Checkpoints(names, "cpu"), port=0) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


def digits() -> Image.Image:
    """Three digits that SPAIR was not trained on, at twice its size, with a border at two sides."""
    whole = Image.new("L", (144, 96))
    for image, place in zip(load_digits().images[[0, 2, 6]], ((34, 8), (84, 30), (40, 58)), strict=True):
        tile = Image.fromarray((image / 16 * 255).astype(np.uint8))
        whole.paste(tile.resize((30, 30), Image.Resampling.BICUBIC), place)
    return whole


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def ask(server: PageServer, target: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(server.url + target, body, {"X-Zoo-Token": server.token, **headers})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_what_is_seen_is_what_the_model_predicts(server: PageServer) -> None:
    status, answer = ask(server, "see?checkpoint=spair-multimnist-recipe&threshold=0.3", png(digits()))
    assert status == 200
    seen = json.loads(answer)
    scene = zoo.load("spair-multimnist-recipe").predict(digits(), image_size=48, fit="pad")
    (expected,) = scene.objects(0.3)
    assert len(seen["objects"]) == len(expected) == 3
    for mine, theirs in zip(seen["objects"], expected, strict=True):
        assert mine["box"] == pytest.approx(theirs["box"], abs=0.06)
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert picture(mine["picture"]).shape == (56, 56, 3)
    assert seen["size"] == [48, 48]
    drawn = picture(seen["reconstruction"])[..., 0] / 255
    np.testing.assert_allclose(drawn, scene.reconstruction[0, 0].numpy(), atol=0.5 / 255 + 1e-4)
    # boxes are drawn around the digits, in the pixels of what the model saw
    (inside,) = zoo.scene.Scene.objects(scene, 0.3)
    x1, y1, x2, _ = inside[0]["box"]
    found, scale = picture(seen["found"]), 4
    assert found.shape == (192, 192, 3)
    edge = found[int(y1 * scale), int((x1 + x2) / 2 * scale)].astype(int)
    assert tuple(edge) == object_color(inside[0], masks=True)


def test_categories_and_scenes_of_its_kind(server: PageServer) -> None:
    scenes = [ask(server, f"scene?checkpoint=discrete-air-multisprites-recipe&index={i}") for i in (0, 1, 0)]
    assert [status for status, _ in scenes] == [200] * 3
    assert scenes[0] == scenes[2] != scenes[1]
    assert Image.open(io.BytesIO(scenes[0][1])).size == (64, 64)
    found = [
        json.loads(ask(server, "see?checkpoint=discrete-air-multisprites-recipe", body)[1])["objects"]
        for _, body in scenes
    ]
    objects = [one for objects in found for one in objects]
    assert objects
    assert all(one["category"] in (0, 1, 2) and len(one["color"]) == 3 for one in objects)


def test_the_checkpoints_are_described_and_nothing_else_is_served(server: PageServer) -> None:
    (spair, discrete) = json.loads(ask(server, "checkpoints")[1])
    assert (spair["name"], spair["model"]) == ("spair-multimnist-recipe", "SPAIRRecipe")
    assert (spair["size"], discrete["size"]) == ([48, 48], [64, 64])
    image = png(Image.new("L", (48, 48)))
    for target, body, status, message in (
        ("see?checkpoint=spair-multimnist-recipe", b"no image", 400, "cannot be read as an image"),
        ("see?checkpoint=/etc/passwd", image, 400, "there is no checkpoint '/etc/passwd' here"),
        ("see", image, 400, "'checkpoint' is missing"),
        ("see?checkpoint=spair-multimnist-recipe&threshold=2", image, 400, "threshold=2.0"),
        ("see?checkpoint=spair-multimnist-recipe&threshold=low", image, 400, "could not convert"),
        ("see?checkpoint=spair-multimnist-recipe", b"", 400, "MiB"),
        ("scene?checkpoint=spair-multimnist-recipe&index=x", None, 400, "invalid literal"),
        ("../pyproject.toml", None, 404, "Not Found"),
        ("other", image, 404, "Not Found"),
    ):
        code, answer = ask(server, target, body)
        assert code == status, target
        assert message in answer.decode(), target
    # a page elsewhere whose name was made to mean this machine
    code, answer = ask(server, "see?checkpoint=spair-multimnist-recipe", image, Host="evil.example:80")
    assert (code, b"not served" in answer) == (403, True)
    assert b"https://" not in ask(server, "")[1]  # the page is whole without a network


def say(server: PageServer, line: str, body: bytes = b"", **headers: str | None) -> str:
    """What comes back for a request whose headers are as given; null leaves one out."""
    host, port = server.server_address[:2]
    given = {"Host": f"{host!s}:{port}", "Content-Length": str(len(body)), "X-Zoo-Token": server.token}
    given |= {key.replace("_", "-"): value for key, value in headers.items()}
    lines = [f"{line} HTTP/1.1", *(f"{key}: {value}" for key, value in given.items() if value is not None), "", ""]
    with socket.create_connection((str(host), port), timeout=30) as client:
        client.sendall("\r\n".join(lines).encode() + body)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(2**16):
            answer += piece
    return answer.decode()


def test_other_sites_and_wrong_lengths_get_one_clear_answer(
    server: PageServer, capfd: pytest.CaptureFixture[str]
) -> None:
    see, image = "POST /see?checkpoint=spair-multimnist-recipe", png(Image.new("L", (48, 48)))
    port = server.server_address[1]
    for host in ("LOCALHOST", "[::1]", f"localhost:{port}", "127.0.0.1", "[::1]:9000"):
        assert say(server, "GET /checkpoints", Host=host).startswith("HTTP/1.0 200 OK"), host
    for host in ("127.0.0.1:80@evil.com", "evil.com", "localhost.evil.com", "127.0.0.1:x", "", "[::1", "localhost@"):
        assert say(server, "GET /checkpoints", Host=host).startswith("HTTP/1.0 403"), host
    assert say(server, see, image, Origin=f"http://127.0.0.1:{port}").startswith("HTTP/1.0 200")
    large, many = png(Image.new("1", (5000, 5000))), str(2**40)
    refused: list[tuple[bytes, dict[str, str | None], int, str]] = [
        (image, {"Origin": "http://evil.com"}, 403, "pages of other origins"),
        (image, {"Origin": "null"}, 403, "pages of other origins"),
        (image, {"Sec_Fetch_Site": "cross-site"}, 403, "pages of other sites"),
        (image, {"X_Zoo_Token": None, "Content_Type": "text/plain"}, 403, "load it again"),
        (image, {"X_Zoo_Token": "x"}, 403, "load it again"),
        (image, {"Content_Length": "x"}, 400, "is no number of bytes"),
        (image, {"Content_Length": "-1"}, 400, "is no number of bytes"),
        (image, {"Content_Length": "1_0"}, 400, "is no number of bytes"),
        (image, {"Content_Length": str(len(image) + 9)}, 400, f"{len(image)} bytes came, Content-Length says"),
        (image, {"Content_Length": many}, 413, "images of up to 32 MiB"),
        (image, {"Content_Length": None, "Transfer_Encoding": "chunked"}, 411, "by Content-Length"),
        (large, {}, 400, "it has 5000 x 5000 pixels, more than 16777216 in all"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", {}, 400, "cannot be read as an image"),
    ]
    for body, headers, status, message in refused:
        answer = say(server, see, body, **headers)
        assert answer.startswith(f"HTTP/1.0 {status} "), (headers, answer)
        assert message in answer
    assert "400" in say(server, "GET http://[/x").splitlines()[0]
    assert "frame-ancestors 'none'" in say(server, "GET /")
    buffer = io.BytesIO()
    Image.new("L", (5000, 5000)).save(buffer, "JPEG")  # can be decoded in fewer pixels
    assert say(server, see, buffer.getvalue()).startswith("HTTP/1.0 200")
    assert capfd.readouterr().err == ""


def test_slow_connections_are_few_and_end(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_SECONDS", 2.0)
    before, (host, port) = threading.active_count(), server.server_address[:2]
    slow = [socket.create_connection((str(host), port)) for _ in range(100)]
    for client in slow[:20]:
        client.sendall(b"GET / HTTP/1.1\r\nHost: local")  # and no more
    time.sleep(0.5)
    assert threading.active_count() - before <= page._PLACES
    end = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.2)
    assert say(server, "GET /").startswith("HTTP/1.0 200")
    for client in slow:
        client.close()


def test_models_without_data_imagine_scenes_and_mistakes_are_known_at_once(tmp_path: Path) -> None:
    mine = zoo.save(SPAIR(channels=1, backbone_channels=4), tmp_path / "mine")
    offered = Checkpoints([str(mine)], "cpu")
    assert offered.describe()[0]["data"] is None
    assert Image.open(io.BytesIO(offered.scene(str(mine), 3))).size == (48, 48)
    assert offered.see(str(mine), Image.new("RGB", (70, 50)), 0.5)["size"] == [50, 70]  # any size
    for arguments, message in (
        (["--ckpt_path", "spair-multimnits"], "did you mean spair-multimnist-paper or spair-multimnist-recipe"),
        (["--host=256.0.0.1"], "zoo: "),
        (["--port=99999"], "port"),
        (["--device=abacus"], "abacus"),
    ):
        with pytest.raises(SystemExit, match=message):
            page.main(arguments)


def test_an_image_that_a_model_does_not_take_is_named_and_the_page_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mine = str(zoo.save(SPAIR(channels=1, backbone_channels=4), tmp_path / "mine"))  # of any size, from 12 px on
    offered = Checkpoints([mine], "cpu")
    with PageServer(offered, port=0) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()

        def see(picture: Image.Image) -> tuple[int, dict[str, Any]]:
            status, answer = ask(served, f"see?checkpoint={mine}&threshold=0", png(picture))
            return status, json.loads(answer, parse_constant=pytest.fail)  # NaN, which browsers do not read

        fine = Image.new("L", (48, 48))
        assert see(fine)[0] == 200
        status, answer = see(Image.new("L", (5, 200)))
        assert (status, "skipped: images of (200, 5) px are smaller than a cell" in answer["error"]) == (400, True)
        model = offered._models[mine]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "forward", Mock(side_effect=RuntimeError("out of memory\nand a long story")))
            status, answer = see(fine)
            assert (status, answer["error"]) == (400, "this image is skipped: RuntimeError: out of memory")
        with torch.no_grad():
            kept = {name: p.clone() for name, p in model.named_parameters()}
            for p in model.parameters():
                p.fill_(torch.nan)
            status, answer = see(fine)
            assert (status, "not finite" in answer["error"]) == (400, True)
            model.load_state_dict(kept, strict=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(offered, "scene", Mock(side_effect=OSError("disk full")))
            status, content = ask(served, f"scene?checkpoint={mine}")
            assert (status, json.loads(content)) == (500, {"error": "OSError: disk full"})
        assert see(fine)[0] == 200
        served.shutdown()


def test_the_verb_serves_every_checkpoint_until_it_is_interrupted() -> None:
    command = [sys.executable, "-m", "zoo", "page", "--port=0"]
    # a test in the background of a shell was started with interrupts ignored, and would hand that down
    restore = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, preexec_fn=restore)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        offered = json.loads(opener.open(url + "checkpoints", timeout=30).read())
        assert [entry["name"] for entry in offered] == [*weights.list_weights()]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")
def test_in_a_browser_one_drops_draws_and_chooses(server: PageServer, tmp_path: Path) -> None:
    """A file is dropped, a digit drawn, a threshold and another model chosen, something that is no image refused."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=BROWSER, args=QUIET)
        plain = browser.new_page()
        plain.goto(server.url)
        plain.locator(".object").first.wait_for()  # its own script runs under its own rules; no other does
        plain.close()
        tab = browser.new_page(viewport={"width": 1240, "height": 770}, bypass_csp=True)  # as this test's scripts do
        problems: list[str] = []
        asked: list[str] = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))

        def turn(action: Any) -> None:
            """Do something, and wait until what is seen is shown."""
            tab.evaluate("document.body.dataset.turn = ''")
            action()
            tab.wait_for_function("document.body.dataset.turn", timeout=30_000)
            tab.wait_for_function("['found', 'reconstruction'].every(id => document.getElementById(id).complete)")

        tab.goto(server.url)
        tab.wait_for_function("document.body.dataset.turn", timeout=30_000)
        assert tab.locator("#checkpoint option").count() == 2
        assert tab.locator(".object").count() >= 1  # a scene of its kind, from the start

        def drop(name: str, content: bytes, kind: str) -> None:
            code = """([text, name, type]) => {
                const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0)), transfer = new DataTransfer();
                transfer.items.add(new File([bytes], name, { type }));
                document.getElementById("canvas").dispatchEvent(
                    new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
            }"""
            tab.evaluate(code, [base64.b64encode(content).decode(), name, kind])

        turn(lambda: drop("digits.png", png(digits()), "image/png"))
        expected = len(zoo.load("spair-multimnist-recipe").predict(digits(), image_size=48, fit="pad").objects()[0])
        assert tab.locator(".object").count() == expected == 3
        assert f"{expected} objects" in tab.inner_text("#count")
        assert tab.evaluate("document.getElementById('found').naturalWidth") == 192

        drop("notes.txt", b"hello", "text/plain")
        assert tab.inner_text("#said") == "notes.txt is no image."
        drop("broken.png", b"hello", "image/png")
        tab.wait_for_function("document.getElementById('said').textContent.startsWith('broken.png cannot')")

        turn(lambda: tab.click("#clear"))
        assert tab.locator(".object").count() == 0
        box = tab.locator("#canvas").bounding_box()
        assert box is not None
        x, y, side = box["x"], box["y"], box["width"]

        def seven() -> None:
            tab.mouse.move(x + 0.4 * side, y + 0.35 * side)
            tab.mouse.down()
            tab.mouse.move(x + 0.56 * side, y + 0.35 * side, steps=4)
            tab.mouse.move(x + 0.46 * side, y + 0.57 * side, steps=6)
            tab.mouse.up()

        turn(seven)
        assert tab.locator(".object").count() == 1
        found = [int(v) for v in tab.inner_text(".object small").split("box ")[1].split(",")[:4]]
        pixels = tab.evaluate("document.getElementById('canvas').width")
        center = ((found[0] + found[2]) / 2 / pixels, (found[1] + found[3]) / 2 / pixels)
        assert center == pytest.approx((0.48, 0.46), abs=0.06)

        turn(lambda: tab.locator("#threshold").fill("1"))
        assert tab.inner_text("#value") == "1.00"
        turn(lambda: tab.locator("#threshold").fill("0.5"))
        turn(lambda: tab.select_option("#checkpoint", "discrete-air-multisprites-recipe"))
        assert tab.locator(".object").count() == 0 or "category" in tab.inner_text(".object >> nth=0")
        turn(lambda: tab.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(digits())}))
        browser.close()
    assert problems == []
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {server.url.split("/")[2]}


def test_objects_in_the_bars_beside_an_image_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tall image is padded to the model's square: only boxes whose middle lies in the image itself are shown."""
    torch.manual_seed(0)
    mine = str(zoo.save(SPAIR(channels=1, backbone_channels=4), tmp_path / "mine"))
    offered = Checkpoints([mine], "cpu")
    monkeypatch.setattr(Checkpoints, "_size", staticmethod(lambda record: [48, 48]))
    tall = Image.new("L", (24, 48), 128)  # in columns 12 to 36 of what the model sees
    objects = offered.see(mine, tall, 0.0)["objects"]
    everything = zoo.load(mine).predict(tall, image_size=48, fit="pad").objects(0.0)[0]
    assert 0 < len(objects) < len(everything) == 16
    assert all(0 <= one["box"][0] + one["box"][2] <= 48 for one in objects)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_the_image_stays_two_are_compared_and_a_stopped_server_says_so(width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ["spair-multimnist-recipe", "discrete-air-multisprites-recipe"]
    served = PageServer(Checkpoints(names, "cpu"), port=0)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=BROWSER, args=QUIET)
        tab = browser.new_page(viewport={"width": width, "height": 800}, bypass_csp=True)

        def turn(action: Any) -> None:
            tab.evaluate("document.body.dataset.turn = ''")
            action()
            tab.wait_for_function("document.body.dataset.turn", timeout=30_000)

        tab.goto(served.url)
        tab.wait_for_function("document.body.dataset.turn", timeout=30_000)
        assert tab.locator("#objects .object").count() >= 1  # the first view has something to find
        turn(lambda: tab.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(digits())}))
        before = tab.evaluate("source.bitmap.src")
        turn(lambda: tab.select_option("#checkpoint", names[1]))
        assert tab.evaluate("source.bitmap.src") == before
        assert not tab.locator("#found2").is_visible()
        turn(lambda: tab.select_option("#other", names[0]))
        assert tab.locator("#found2").is_visible()
        assert tab.locator("#objects2 .object").count() == 3
        assert not tab.evaluate("document.documentElement.scrollWidth > innerWidth")
        unnamed = """[...document.querySelectorAll("button, input, select, canvas, img")].filter(element =>
            !(element.labels && element.labels.length) && !element.getAttribute("aria-label") && !element.textContent
            && !element.hasAttribute("alt")).length"""
        assert tab.evaluate(unnamed) == 0  # a screen reader has a name for each
        served.shutdown()
        served.server_close()
        tab.click("#scene")
        tab.wait_for_function("document.getElementById('said').textContent.startsWith('The server has stopped')")
        browser.close()
