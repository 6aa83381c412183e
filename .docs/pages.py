"""The documentation's pages: the README's sections, and a page for each module. No text is written twice.

A hook of MkDocs (`mkdocs.yml`). What the README links to in the repository is copied to `files`, so that the site
stands by itself.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("zoo", "datamodules", "metrics")
_LINK = re.compile(r"(\]\(|(?:src|href|srcset)=\")([^)\s\"]+)")


def slug(title: str) -> str:
    """As GitHub makes anchors of headings."""
    return re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")


def sections(text: str) -> Iterator[tuple[int, str, str]]:
    """Level, title and text below each heading of the first two levels, in order; code has no headings."""
    level, title, lines, code = 1, "", [], False
    for line in text.splitlines():
        code ^= line.lstrip().startswith("```")
        heading = None if code else re.match(r"(#{1,2}) (.+)", line)
        if heading:
            if title:
                yield level, title, "\n".join(lines)
            level, title, lines = len(heading[1]), heading[2], []
        else:
            lines.append(line)
    yield level, title, "\n".join(lines)


def modules() -> list[str]:
    """Public modules, packages before what is in them."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py"), key=lambda path: path.with_suffix("").parts):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if not any(part.startswith("_") for part in parts):
                found.append(".".join(parts))
    return sorted(found, key=lambda name: (PACKAGES.index(name.split(".")[0]), name))


class Site:
    """All pages, by their paths within the site."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.copies: dict[str, Path] = {}
        guide: list[Any] = []
        reference: list[Any] = []
        chapters = guide
        home: dict[str, str] = {}
        readme = [*sections((ROOT / "README.md").read_text(encoding="utf-8"))]
        names = modules()
        self.api = {name.replace(".", "/"): f"api/{name}.md" for name in names}
        for level, title, _ in readme:
            home[slug(title)] = "index.md" if level == 1 else f"{slug(title)}.md"
        for level, title, text in readme:
            path = home[slug(title)]
            if level == 1 and path in self.pages:  # the README's second part, which has no text of its own
                chapters = reference
                continue
            self.pages[path] = f"# {title}\n\n{self.linked(text, path, home)}\n"
            chapters.append({title: path})
        for name in names:
            self.pages[f"api/{name}.md"] = f"# `{name}`\n\n::: {name}\n"
        api = [{package: self.tree(package, names)} for package in PACKAGES]
        self.nav = [{"Guide": guide}, {"Reference": reference}, {"Code": api}]

    def tree(self, package: str, names: list[str]) -> list[Any]:
        """Navigation of a package: its own page, its modules, the packages within it."""
        entries: list[Any] = [f"api/{package}.md"]
        for name in names:
            if name.rpartition(".")[0] == package:
                within = any(other.startswith(f"{name}.") for other in names)
                entries.append({name.rpartition(".")[2]: self.tree(name, names) if within else f"api/{name}.md"})
        return entries

    def linked(self, text: str, page: str, home: dict[str, str]) -> str:
        """The text with links to pages of the site, and to copies of the repository's files."""

        def target(match: re.Match[str]) -> str:
            before, link = match.groups()
            path, _, anchor = link.partition("#")
            if "://" in link or link.startswith("mailto:"):
                return match[0]
            if not path:
                return before + (home.get(anchor, f"{page}#{anchor}"))
            module = path.removesuffix("/").removesuffix("/__init__.py").removesuffix(".py")
            if module in self.api:
                return before + self.api[module]
            file = ROOT / path
            if file.is_dir():  # as a list of what is in it
                listing = f"files/{PurePosixPath(path).as_posix().replace('/', '-')}.md"
                inner = sorted(each for each in file.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
                lines = [f"- [{each.relative_to(file).as_posix()}]({self.copy(each, 'files')})" for each in inner]
                self.pages[listing] = f"# {path}\n\n" + "\n".join(lines) + "\n"
                return before + listing
            return before + self.copy(file, "")

        parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.DOTALL)
        return "".join(part if part.startswith("`") else _LINK.sub(target, part) for part in parts)

    def copy(self, file: Path, start: str) -> str:
        """The path of a file's copy, from a folder of the site."""
        relative = file.resolve().relative_to(ROOT).as_posix()
        name = "files/" + "/".join(part.lstrip(".") for part in relative.split("/"))
        self.copies[name] = file
        return os.path.relpath(name, start or ".").replace(os.sep, "/")


_site: list[Site] = []


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and what leads to them."""
    _site[:] = [Site()]
    config.nav = _site[0].nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Hand them over."""
    for path, content in _site[0].pages.items():
        files.append(File.generated(config, path, content=content))
    for path, source in _site[0].copies.items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files
