import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's data."""
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


_GIVEN = os.environ.get("ZOO_DATA")


@pytest.fixture
def mnist_root() -> Path:
    """A folder with MNIST's files, or a part of them."""
    folders = [Path(_GIVEN)] if _GIVEN else []
    folders += [REPOSITORY.parent / "shared" / "data" / "mnist10k"]
    for folder in folders:
        if (folder / "MNIST" / "raw").is_dir():
            return folder
    pytest.skip("no MNIST files")
