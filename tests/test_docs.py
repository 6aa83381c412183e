"""The documentation is built without network from the README and docstrings, and its links lead somewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs the extra docs")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages", ROOT / ".docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_headings_of_code_are_none(pages) -> None:
    text = "# Zoo\nfirst\n## One\n```bash\n## no heading\n```\n### below\n# Two\nlast"
    below = "```bash\n## no heading\n```\n### below"
    assert [*pages.sections(text)] == [(1, "Zoo", "first"), (2, "One", below), (1, "Two", "last")]


def test_links_lead_to_pages_and_copies(pages) -> None:
    site = pages.Site()
    linked = site.linked(
        "[a](zoo/models/spair.py) [b](#install) [c](configs/spair.yaml) [d](https://x.org/y.py) "
        "`[e](z.py)`\n```\n[f](configs/air.yaml)\n```",
        "index.md",
        {"install": "install.md"},
    )
    assert linked == (
        "[a](api/zoo.models.spair.md) [b](install.md) [c](files/configs/spair.yaml) [d](https://x.org/y.py) "
        "`[e](z.py)`\n```\n[f](configs/air.yaml)\n```"
    )
    assert site.copies["files/configs/spair.yaml"] == ROOT / "configs" / "spair.yaml"
    assert all(path.is_file() for path in site.copies.values())


def test_the_site_is_built(tmp_path: Path) -> None:
    """Strictly: a broken link or reference ends it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        [*command, "--config-file", str(ROOT / ".docs" / "mkdocs.yml")],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "zoo.models.spair.html").read_text()
    assert "lateral_hidden" in page
    asks = re.compile(r'<(script|img|iframe)[^>]*src="https?:|<link[^>]*stylesheet[^>]*href="https?:')
    assert not [path for path in (tmp_path / "site").rglob("*.html") if asks.search(path.read_text())]  # other servers
