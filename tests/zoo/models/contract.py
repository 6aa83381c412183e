"""What every model of the zoo promises. A test of a model subclasses `ModelContract` and names its quick setting."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import zoo
from zoo.models import ObjectModel
from zoo.scene import Scene


def trainer(folder, **options: Any) -> Trainer:
    """A quiet trainer on one CPU."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(accelerator="cpu", default_root_dir=folder, **{"devices": 1, **quiet, **options})


class ModelContract:
    """Tests that hold for all models.

    Attributes:
        model_class: The model.
        settings: Hyperparameters of a small network.
        sizes: Image sizes (H, W) that the model takes; the first is the usual one.
    """

    model_class: type[ObjectModel]
    settings: dict[str, Any]
    sizes: tuple[tuple[int, int], ...] = ((48, 48),)

    @pytest.fixture
    def model(self) -> ObjectModel:
        torch.manual_seed(0)
        return self.model_class(**self.settings)

    def images(self, batch: int = 3, size: tuple[int, int] | None = None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.rand(batch, self.settings["channels"], *(size or self.sizes[0]), generator=generator)

    def test_forward_yields_a_scene_of_the_promised_shapes_and_ranges(self, model: ObjectModel) -> None:
        for size in self.sizes:
            image = self.images(size=size)
            scene = model.eval()(image)
            scene.check(image)
            assert 0 <= scene.reconstruction.min() <= scene.reconstruction.max() <= 1
            assert 0 <= scene.presence.min() <= scene.presence.max() <= 1
            assert (scene.boxes[..., 2:] >= scene.boxes[..., :2]).all()

    def test_forward_is_deterministic_and_treats_images_apart(self, model: ObjectModel) -> None:
        image = self.images(4)
        with torch.no_grad():
            together, again = model.eval()(image), model(image)
            alone = model(image[2:3])
        for field in dataclasses.fields(Scene):
            value = getattr(together, field.name)
            if value is not None:
                torch.testing.assert_close(value, getattr(again, field.name), rtol=0, atol=0)
                one, other = value[2:3], getattr(alone, field.name)
                if field.name == "mask":  # rounding decides between objects that are drawn alike, as at first
                    assert (one != other).float().mean() < 0.01
                else:
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    def test_losses_are_finite_scalars_that_reach_every_parameter(self, model: ObjectModel, uci_data) -> None:
        batch = next(
            iter(uci_data(image_size=list(self.sizes[0]), channels=self.settings["channels"]).train_dataloader())
        )
        terms = model.train().losses(batch)
        assert all(value.ndim == 0 and value.isfinite() for value in terms.values())
        sum(terms.values()).backward()
        untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not untouched

    def test_the_negative_elbo_is_the_plain_sum_of_its_terms_whatever_they_weigh(self, tmp_path, uci_data) -> None:
        data = uci_data(image_size=list(self.sizes[0]), channels=self.settings["channels"])
        logged = []
        for weight in (1.0, 7.0):
            torch.manual_seed(0)
            model = self.model_class(**self.settings)
            every = (*model.elbo_terms, *model.term_weights)
            model.term_weights = dict.fromkeys(every, weight)
            logged += trainer(tmp_path, limit_val_batches=2).validate(model, data, verbose=False)
        plain, weighted = logged
        assert not every or weighted["val/loss"] != pytest.approx(plain["val/loss"])
        if not self.model_class.elbo_terms:
            assert "val/negative_elbo" not in plain
            assert not [name for name in plain if name.startswith("val/kl_")]
            return
        terms = [v for name, v in plain.items() if name.startswith("val/kl_") or name == "val/reconstruction"]
        for values in logged:
            assert values["val/negative_elbo"] == pytest.approx(sum(terms), rel=1e-5)

    def test_hyperparameters_are_json_and_rebuild_the_model(self, model: ObjectModel) -> None:
        record = json.loads(json.dumps(model.record()))
        again = self.model_class(**record["init_args"])
        assert {n: p.shape for n, p in again.state_dict().items()} == {
            n: p.shape for n, p in model.state_dict().items()
        }

    def test_saved_and_loaded_it_sees_the_same(self, model: ObjectModel, tmp_path) -> None:
        zoo.save(model, tmp_path / "copy", metrics={"ap50": 0.5})
        loaded = zoo.load(tmp_path / "copy.safetensors")
        assert type(loaded) is self.model_class
        assert not loaded.training
        assert loaded.steps_trained == 0
        image = self.images()
        torch.testing.assert_close(loaded(image).reconstruction, model.eval()(image).reconstruction, rtol=0, atol=0)

    def test_generate_draws_scenes_and_repeats_them_from_a_seed(self, model: ObjectModel) -> None:
        draw = [model.generate(2, self.sizes[0], torch.Generator().manual_seed(s)).reconstruction for s in (3, 3, 4)]
        assert draw[0].shape == self.images(2).shape
        assert torch.equal(draw[0], draw[1])
        assert not torch.equal(draw[0], draw[2])

    def test_a_resumed_run_equals_the_uninterrupted_one(self, tmp_path, uci_data) -> None:
        def run(folder: str, max_steps: int, resume: str | None = None) -> ObjectModel:
            seed_everything(5, verbose=False)
            model = self.model_class(**self.settings)
            data = uci_data(image_size=list(self.sizes[0]), channels=self.settings["channels"])
            checkpoint = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=5, save_top_k=-1)
            options = {"max_steps": max_steps, "callbacks": [checkpoint], "check_val_every_n_epoch": None}
            trainer(tmp_path, val_check_interval=3, **options).fit(model, data, ckpt_path=resume)
            return model

        whole = run("whole", 12)
        run("first", 5)  # in the middle of an epoch of 8 batches
        resumed = run("second", 12, str(tmp_path / "first" / "step=5.ckpt"))
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name

    def test_wrong_images_are_refused_with_the_fix(self, model: ObjectModel) -> None:
        with pytest.raises(ValueError, match=r"channels.*data\.init_args\.channels"):
            model.check_image(torch.rand(2, 2, *self.sizes[0]))
        with pytest.raises(ValueError, match="pixels in \\[0, 1\\], got 0 to 255"):
            model(torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, self.settings["channels"], *self.sizes[0]))
        with pytest.raises(ValueError, match="float"):
            model.check_image(torch.zeros(2, self.settings["channels"], *self.sizes[0], dtype=torch.uint8))

    def test_a_loss_that_is_not_a_number_stops_with_the_name_of_its_term(self, model, tmp_path, uci_data, monkeypatch):
        losses = self.model_class.losses

        def broken(self: ObjectModel, batch: Any) -> dict[str, torch.Tensor]:
            terms = losses(self, batch)
            if self.global_step == 2:
                terms["reconstruction"] = terms["reconstruction"] * torch.nan
            return terms

        monkeypatch.setattr(self.model_class, "losses", broken)
        data = uci_data(image_size=list(self.sizes[0]), channels=self.settings["channels"])
        with pytest.raises(FloatingPointError, match="'reconstruction' is nan at step 2"):
            trainer(tmp_path, max_steps=4, limit_val_batches=0, enable_checkpointing=False).fit(model, data)
