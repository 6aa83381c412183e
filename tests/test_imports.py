"""Imports point one way, from commands down to layers, and form no circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# rooms from the lowest to the highest: a file imports from its own room and from lower ones, never across
RANKS = [["datamodules", "metrics"], ["layers"], ["scene", "files", "records", "configurations", "registry", "_beside"],
         ["evaluation"], ["prediction", "loaders", "backgrounds", "results", "baselines"], ["features"], ["models"],
         ["pictures", "sharing"], ["downstream"], ["callbacks"], ["commands"], ["__init__", "__main__"]]  # fmt: skip
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
DELEGATIONS = {  # what points up, and why
    ("zoo.models.base", "zoo.sharing.former"): "a table of old names, which imports nothing",
    ("zoo.models.base_use", "zoo.sharing.hub"): "`save_pretrained` and `push_to_hub` of a model, imported when called",
    ("zoo.models.ast_seg", "zoo.sharing.weights"): "backgrounds that it starts from",
    ("zoo.models.background_ae", "zoo.sharing.weights"): "a background is a checkpoint of another paper's model",
    ("zoo.registry", "zoo.models.base"): "classes that nobody lists, imported when asked for",
    ("zoo.callbacks.record", "zoo"): "the version, and where the code is",
    ("zoo.commands.predict", "zoo"): "the version",
}


def modules() -> dict[str, ast.Module]:
    """All of our modules by name, packages by that of their folder."""
    paths = [path for top in ("datamodules", "metrics", "zoo") for path in (ROOT / top).rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for path, name in names.items()}


def imports(tree: ast.AST, known: set[str]) -> set[str]:
    """Which of our modules a tree imports, sooner or later, other than for types alone."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in inner}
        found |= imports(node, known)
    return found & known


def room(name: str) -> str:
    top, _, rest = name.partition(".")
    return top if top != "zoo" else rest.split(".")[0] or "__init__"


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    trees = modules()
    return {name: imports(tree, set(trees)) - {name} for name, tree in trees.items()}


def test_imports_point_down(edges: dict[str, set[str]]) -> None:
    up = {(a, b) for a, to in edges.items() for b in to if room(a) != room(b) and RANK[room(a)] <= RANK[room(b)]}
    assert up == set(DELEGATIONS)  # none is new, and none that is named has gone


def test_imports_form_no_circle(edges: dict[str, set[str]]) -> None:
    graph = {a: {b for b in to if (a, b) not in DELEGATIONS} for a, to in edges.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")
