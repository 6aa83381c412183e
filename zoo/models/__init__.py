"""The models, one file a paper. A new file here is a new model everywhere: see `zoo.registry`.

`NAME.py` is the paper alone, `NAME_recipe.py` its class with what the zoo adds. `base` is what every model is; parts of
it are `base_steps` (where a model stands in its training), `base_rates`, `base_measures` and `base_use`.
"""

from typing import TYPE_CHECKING, Any

from zoo import registry

if TYPE_CHECKING:
    from zoo.models.base import ObjectModel as ObjectModel
    from zoo.models.spair import SPAIR as SPAIR


def __getattr__(name: str) -> Any:
    if name == "ObjectModel":
        from zoo.models.base import ObjectModel

        return ObjectModel
    if name in registry.models():
        return registry.models()[name].load()
    raise AttributeError(f"module 'zoo.models' has no attribute {name!r}; its models are {sorted(registry.models())}")


def __dir__() -> list[str]:
    return ["ObjectModel", *registry.models()]
