"""What `ObjectModel` promises to those who write models of their own."""

import inspect
from typing import Any

import pytest

from zoo import registry
from zoo.models import ObjectModel


class Paper(ObjectModel):
    def __init__(self, *, size: int = 3, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.seen = dict(self.hparams)


class Recipe(Paper):
    def __init__(self, *, lr: float = 0.5, blob: float = 2.0, **paper: Any) -> None:
        super().__init__(lr=lr, **paper)


class Heir(Recipe):
    pass


class Narrow(Recipe):
    def __init__(self, *, blob: float = 0.0) -> None:
        super().__init__(blob=blob)


class Anything(ObjectModel):
    def __init__(self, **options: Any) -> None:
        super().__init__()


def test_a_recipes_hyperparameters_and_its_papers_are_saved_before_the_papers_constructor_reads_them() -> None:
    for kind in (Recipe, Heir):
        model = kind(size=4)
        assert model.seen == dict(model.hparams) == {"size": 4, "lr": 0.5, "blob": 2.0}


def test_signatures_name_what_is_handed_to_the_constructor_above() -> None:
    defaults = {"lr": 0.5, "blob": 2.0, "size": 3}
    for kind in (Recipe, Heir):
        assert {name: p.default for name, p in inspect.signature(kind).parameters.items()} == defaults
    assert [*inspect.signature(Narrow).parameters] == ["blob"]
    assert [*inspect.signature(Anything).parameters] == ["options"]


@pytest.mark.parametrize("name", registry.models())
def test_weights_of_unknown_terms_and_malformed_schedules_are_refused(name: str) -> None:
    model = registry.models()[name].load()
    if "term_weights" not in inspect.signature(model).parameters:
        pytest.skip("its terms have no weights of one's own")
    with pytest.raises(ValueError, match=r"term_weights has 'nonsense'; the loss terms are \['"):
        model(term_weights={"nonsense": 1.0})
    with pytest.raises(ValueError, match="the weight of reconstruction must be a number"):
        model(term_weights={"reconstruction": [1.0, 2.0]})
