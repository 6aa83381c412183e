"""How the records of earlier format versions read today: a table of what was renamed, added and removed.

Version 1 (until 0.1): papers' classes held the zoo's additions too, each as a hyperparameter that was off by default.
Version 2: a paper's class is the paper; what the zoo adds is in a class of its own (`zoo.models`: `SPAIRRecipe` beside
`SPAIR`), and the weights of loss terms and the initial biases are mappings.
Versions 3 and 4: additions that were shown to be worth nothing are gone (`zoo/results/ablations.csv`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 4  # of the records that are written; all before it are read


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
        state: Beginnings of the weights' names, old to new; null for weights that no class has.
    """

    added: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    standard: Mapping[str, Any] = field(default_factory=dict)
    removed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    additions: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    state: Mapping[str, str | None] = field(default_factory=dict)


_GMAIR_LATENTS = ("presence", "where", "depth", "category", "what")
_GMAIR_AGREEMENT = ("consistency", "balance")
_SPAIR_PARTS, _SPAIR_BIASES = ("position", "size", "depth", "what", "presence"), ("where_std", "size", "presence")
_AIR = Former(
    renamed={
        "presence_bias": "initial_biases.presence",
        "decoder_bias": "initial_biases.decoder",
        "where_kl_weight": "term_weights.kl_where",
        "what_kl_weight": "term_weights.kl_what",
        "presence_kl_weight": "term_weights.kl_presence",
    },
    standard={
        "presence_bias": 2.0,
        "decoder_bias": -2.0,
        "where_kl_weight": 1.0,
        "what_kl_weight": 1.0,
        "presence_kl_weight": 1.0,
    },
    removed={"mlp_hidden": ((256, 256, 256, 256),), "baseline_hidden": (256,)},
)

FORMER: dict[str, Former] = {
    "ASTSeg": Former(
        renamed={"entropy_weight": "term_weights.entropy", "slot_weight": "term_weights.slots"},
        standard={"entropy_weight": [0.0, 1e-2, 10000, "quadratic"], "slot_weight": 0.0},
        removed={"normalize": (False,), "object_entropy_weight": (0.0,), "cache_backgrounds": (True, False)},
        additions={
            "unet_stride": 1,
            "unet_position": False,
            "encoder_residual": False,
            "see_background": False,
            "attention_gain": 1.0,
            "attention_spread": 0.0,
            "scale_bias": 0.0,
            "scale_gain": 1.0,
            "attended_color": False,
            "layer_error": 0.0,
            "target_blur": 0.0,
            "slot_weight": 0.0,
        },
        recipe="ASTSegRecipe",
    ),
    "BackgroundAE": Former(additions={"target_blur": 0.0}, recipe="BackgroundAERecipe"),
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
    "GMAIR": Former(
        added={"color_edge": "zeros"},
        renamed={
            **{name + "_weight": "term_weights." + name for name in ("reconstruction", "overlap", *_GMAIR_AGREEMENT)},
            **{name + "_kl_weight": "term_weights.kl_" + name for name in _GMAIR_LATENTS},
            "where_std_bias": "initial_biases.where_std",
            "presence_bias": "initial_biases.presence",
        },
        standard={
            **{name + "_kl_weight": 1.0 for name in _GMAIR_LATENTS},
            **{name + "_weight": 0.0 for name in _GMAIR_AGREEMENT},
            "reconstruction_weight": 8.0,
            "overlap_weight": [2.0, 0.0, 5000, "linear"],
            "where_std_bias": 0.0,
            "presence_bias": 0.0,
        },
        removed={
            "cell_size": tuple(2**i for i in range(10)),  # what the backbone's layers make, whatever it is
            "decoder_alpha": (True,),
            "alpha_logit_bias": (5.0,),
            "bf16": (False, True),  # a way of computing: of the trainer's precision
            "glimpse_padding": ("border",),
            "size_bias": (0.0,),
            "presence_temperature": (1.0,),
            "position_prior": ((0.0, 1.0),),
            "depth_prior": ((0.0, 1.0),),
            "renderer": ("exact",),
            "background": ("black",),
            "background_color": (None,),
            "overlap_reduction": ("sum",),
        },
        additions={
            "where_std_bias": 0.0,
            "presence_bias": 0.0,
            "size_prior": (0.0, 1.0),
            "likelihood": "bernoulli",
            "likelihood_std": 0.2,
            "negligible_presence": 0.0,
            "what_prior_at": "sample",
            "fine_categories": 0,
            "category_gain": 1.0,
            "second_look": (0.05, 0.1, 0.25, 0.3),
            "decoder_hidden": None,
            **{name + "_weight": 0.0 for name in _GMAIR_AGREEMENT},
        },
        recipe="GMAIRRecipe",
    ),
    "AIR": _AIR,
    "DAIR": _AIR,
    "DiscreteAIR": Former(
        renamed={
            "presence_bias": "initial_biases.presence",
            "decoder_bias": "initial_biases.decoder",
            "scale_kl_weight": "term_weights.kl_scale",
            "pose_kl_weight": "term_weights.kl_pose",
            "category_kl_weight": "term_weights.kl_category",
            "attribute_kl_weight": "term_weights.kl_attribute",
            "presence_kl_weight": "term_weights.kl_presence",
            "blur_weight": "term_weights.blurred",
            "balance_weight": "term_weights.balance",
        },
        standard={
            "presence_bias": 2.0,
            "decoder_bias": -2.0,
            "scale_kl_weight": 1.0,
            "pose_kl_weight": 1.0,
            "category_kl_weight": 1.0,
            "attribute_kl_weight": 1.0,
            "presence_kl_weight": 1.0,
            "blur_weight": 0.0,
            "balance_weight": 0.0,
        },
        removed={
            "kernel_size": (5,),
            "where_std": (0.05,),
            "attribute_std": (0.7,),
            "presence_temperature": (1.0,),
            "heat_gain": (10.0,),
            "hard_presence_step": (None,),
        },
        additions={
            "heat_map": False,
            "heat_channels": 32,
            "second_glimpse": False,
            "second_hidden": (256, 128),
            "detach_canvas": False,
            "blur_weight": 0.0,
            "template_gain": 1.0,
            "template_blob": 0.0,
            "template_noise": 0.0,
            "uniform_category_steps": None,
            "balance_weight": 0.0,
            "aspect_std": None,
            "attribute_steps": None,
        },
        recipe="DiscreteAIRRecipe",
        state={"released": None},
    ),
}


# Additions of version 2 that are gone: they shaped training alone, or `upgrade_state` folds them into weights.
DROPPED: dict[str, tuple[str, ...]] = {
    "ASTSegRecipe": ("target_blur",),
    "DiscreteAIRRecipe": ("aspect_std", "detach_canvas", "template_noise", "term_weights.blurred"),
    "SPAIRRecipe": ("center_bias", "center_blob", "training_wheels", "initial_biases.where_std"),
}


def upgrade(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as of `FORMAT_VERSION`, with `written_version` for the one it had; one that is of it already, as it is.

    Raises:
        FormerRecordError: A hyperparameter that is gone had a value that did something; the message names it.
    """
    version = record.get("format_version")
    if not isinstance(version, int) or version >= FORMAT_VERSION or not isinstance(record.get("init_args"), Mapping):
        return dict(record)
    today = _from_version_1(record) if version < 2 else record
    gone = DROPPED.get(today["class"], ())
    init_args: dict[str, Any] = {}
    for name, value in today["init_args"].items():
        if isinstance(value, Mapping):
            init_args[name] = {key: item for key, item in value.items() if f"{name}.{key}" not in gone}
        elif name not in gone:
            init_args[name] = value
    return {**today, "format_version": FORMAT_VERSION, "written_version": version, "init_args": init_args}


def _from_version_1(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The class and hyperparameters of version 2."""
    former = FORMER.get(str(record.get("class")))
    if former is None:
        return record
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
    return {**record, "class": former.recipe if recipe else record["class"], "init_args": init_args}


def upgrade_state(written: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights as today's class has them: by today's names, and doing for good what options that are gone did.

    Args:
        written: The record as it was written, or, of version 1 on, as `upgrade` yields it.
        state: Tensors by name.
    """
    kind = str(written.get("class"))
    names = FORMER[kind].state if kind in FORMER else {}

    def renamed(name: str) -> str | None:
        old = max((old for old in names if name.startswith(old)), key=len, default=None)
        if old is None:
            return name
        new = names[old]
        return None if new is None else new + name.removeprefix(old)

    today = {new: value for name, value in state.items() if (new := renamed(name)) is not None}
    if kind in ("SPAIR", "SPAIRRecipe") and "alpha_bias" in today:
        _fold_alpha_mask(written["init_args"], today)
    return today


def _fold_alpha_mask(init_args: Mapping[str, Any], state: dict[str, Any]) -> None:
    """Into the decoder's last bias: what `center_bias` took from the alpha logits of each texel (`alpha_bias`, P x P).

    alpha = sigmoid(scale * logit + alpha_bias), with alpha_bias = alpha_logit_bias where nothing was taken.
    """
    biases = [name for name in state if re.fullmatch(r"decoder\.\d+\.bias", name)]
    last = max(biases, key=lambda name: int(name.split(".")[1]))
    taken = state.pop("alpha_bias").float() - init_args.get("alpha_logit_bias", 5.0)
    if taken.any():
        bias = state[last].float().clone()
        bias[-taken.numel() :] += taken.flatten() / init_args.get("alpha_logit_scale", 0.1)
        state[last] = bias


def _plain(value: Any) -> Any:
    """With lists for tuples, and one kind of numbers, as JSON makes them."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
