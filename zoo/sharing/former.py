"""How the records of earlier format versions read today: a table of what was renamed, added and removed.

Version 1 (until 0.1): papers' classes held the zoo's additions too, each as a hyperparameter that was off by default.
Version 2: a paper's class is the paper; what the zoo adds is in a class of its own (`zoo.models`: `SPAIRRecipe` beside
`SPAIR`), and the weights of loss terms and the initial biases are mappings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 2  # of the records that are written; all before it are read


class FormerRecordError(ValueError):
    """A record asks for what no class of today does."""


@dataclass(frozen=True)
class Former:
    """How the record of a class in format version 1 reads in version 2.

    Attributes:
        added: Hyperparameters that it had not, with the values by which a model goes on doing what it did.
        renamed: Old name to new; `term_weights.kl_size` is an entry of a mapping. One at its `standard` is left out.
        standard: Old name to the value that the class has anyway, for those of `renamed` that go into a mapping.
        removed: Hyperparameters that are gone, with the values at which nothing is lost with them.
        additions: Those that only the recipe's class has, with the values at which they do nothing.
        recipe: That class.
        state: Beginnings of the weights' names, old to new.
    """

    added: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    standard: Mapping[str, Any] = field(default_factory=dict)
    removed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    additions: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    state: Mapping[str, str] = field(default_factory=dict)


_SPAIR_PARTS, _SPAIR_BIASES = ("position", "size", "depth", "what", "presence"), ("where_std", "size", "presence")

FORMER: dict[str, Former] = {
    "SPAIR": Former(
        added={"color_edge": "zeros"},
        renamed={
            **{f"{part}_kl_weight": f"term_weights.kl_{part}" for part in _SPAIR_PARTS},
            **{f"{place}_bias": f"initial_biases.{place}" for place in _SPAIR_BIASES},
        },
        standard={
            **{f"{part}_kl_weight": 1.0 for part in _SPAIR_PARTS},
            **{f"{place}_bias": 0.0 for place in _SPAIR_BIASES},
        },
        removed={
            "background_color": (None,),
            "bf16_backbone": (False, True),
            "glimpse_padding": ("zeros",),
            "passthrough": (0,),
            "renderer": ("exact",),
            "round_presence": (True,),
            "sample_outside_training": (False,),
        },
        additions={
            "center_bias": 0.0,
            "center_blob": 0.0,
            "importance_floor": 0.0,
            "likelihood": "bernoulli",
            "likelihood_std": 0.2,
            "training_wheels": 0,
            "trim_threshold": None,
            **{f"{part}_kl_weight": 1.0 for part in _SPAIR_PARTS},
            **{f"{place}_bias": 0.0 for place in _SPAIR_BIASES},
        },
        recipe="SPAIRRecipe",
        state={"lateral.where.": "lateral."},
    ),
    "GMAIR": Former(added={"color_edge": "zeros"}),
}


def upgrade(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as of `FORMAT_VERSION`; one that is of it already, or of a class that is not ours, as it is.

    Raises:
        FormerRecordError: A hyperparameter that is gone had a value that did something; the message names it.
    """
    former, version = FORMER.get(str(record.get("class"))), record.get("format_version")
    if not isinstance(version, int) or version >= FORMAT_VERSION or not isinstance(record.get("init_args"), Mapping):
        return dict(record)
    if former is None:
        return {**record, "format_version": FORMAT_VERSION}
    old = {**former.added, **record["init_args"]}
    for name, idle in former.removed.items():
        if name in old and _plain(old[name]) not in map(_plain, idle):
            raise FormerRecordError(
                f"{record['class']} has no {name} any more, which this checkpoint has at {old[name]!r}: read it with "
                "version 0.1 of the package"
            )
    recipe = former.recipe and any(
        name in old and _plain(old[name]) != _plain(idle) for name, idle in former.additions.items()
    )
    gone = set(former.removed) | (set() if recipe else set(former.additions))
    init_args: dict[str, Any] = {}
    for name, value in old.items():
        if name in gone:
            continue
        target = former.renamed.get(name, name)
        if "." not in target:
            init_args[target] = value
        elif _plain(value) != _plain(former.standard.get(name)):
            mapping, key = target.split(".")
            init_args.setdefault(mapping, {})[key] = value
    kind = former.recipe if recipe else record["class"]
    return {**record, "format_version": FORMAT_VERSION, "class": kind, "init_args": init_args}


def upgrade_state(kind: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of a model of class `kind` in format version 1, by the names that they have today."""
    names = FORMER[kind].state if kind in FORMER else {}

    def renamed(name: str) -> str:
        old = max((old for old in names if name.startswith(old)), key=len, default=None)
        return name if old is None else names[old] + name.removeprefix(old)

    return {renamed(name): value for name, value in state.items()}


def _plain(value: Any) -> Any:
    """With lists for tuples, and one kind of numbers, as JSON makes them."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
