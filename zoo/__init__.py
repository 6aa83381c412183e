"""The object-centric model zoo.

`zoo.load("spair-multimnist-recipe")` returns a trained model, whose `predict(images)` returns a `Scene`;
`zoo.list_models()` and `zoo.list_weights()` say what there is. Nothing heavy is imported until it is used.

- `models/`: the papers' LightningModules, and beside each what the zoo adds; `layers/`: what papers share.
- `commands/`: what `python -m zoo VERB` runs; `callbacks/`: what happens while a trainer runs; `pictures/`: drawing.
- `sharing/`: checkpoints as files, folders, hub repositories, programs; `checkpoints/`: those that come along.
- `downstream/`: what is done with what a model found; `results/`: recorded runs and their tables.
- `scene`: what a model sees; `prediction`: of images of any origin; `evaluation`, `loaders`: what is measured, on which
  data; `registry`, `configurations`: what there is, by name; `backgrounds`, `files`: helpers of several rooms.
"""

from typing import TYPE_CHECKING, Any

from zoo import _beside

_beside.install()

if TYPE_CHECKING:
    from zoo.scene import Scene as Scene
    from zoo.sharing.weights import list_models as list_models
    from zoo.sharing.weights import list_weights as list_weights
    from zoo.sharing.weights import load as load
    from zoo.sharing.weights import save as save

__all__ = ["Scene", "list_models", "list_weights", "load", "save"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("zoo.scene" if name == "Scene" else "zoo.sharing.weights"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
