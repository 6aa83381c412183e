"""Where a model stands is its own: whoever it is attached to, however it was saved, and whoever trains it."""

import copy
import pickle
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from contract import trainer
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch import Tensor
from torch.utils.data import DataLoader

import zoo
from zoo.layers.noise import mixed_seed, seeded
from zoo.layers.schedules import schedule_value
from zoo.models import AIR, SPAIR, ASTSegRecipe, ObjectModel

LR = [1e-3, 1e-4, 10, "linear"]
TINY: dict[type[ObjectModel], dict[str, Any]] = {
    AIR: {"image_size": 16, "cell_hidden": 8, "where_hidden": [8], "encoder_hidden": [8], "decoder_hidden": [8]},
    SPAIR: {"channels": 1, "backbone_channels": 4, "encoder_hidden": [8], "decoder_hidden": [8], "what_dim": 4},
    ASTSegRecipe: {  # dropout draws noise too, and schedules say where objects are
        "channels": 1, "image_size": 64, "num_slots": 3, "what_dim": 4, "backbone": "unet", "unet_channels": [4, 8],
        "encoder_layers": 1, "encoder_dim": 16, "encoder_heads": 2, "encoder_hidden": 16, "glimpse_size": 8,
        "background_form": "simple", "background_width": 0.1, "scale_gain": [0.0, 5.0, 10, "linear"],
        "attention_spread": [8.0, 0.0, 10, "linear"],
    },
}  # fmt: skip


def make(kind: type[ObjectModel] = ASTSegRecipe, **settings: Any) -> ObjectModel:
    torch.manual_seed(0)
    return kind(**{**TINY[kind], "lr": LR, **settings})


def images(model: ObjectModel, count: int = 16) -> list[dict[str, Tensor]]:
    size = model.hparams.get("image_size", 48)
    drawn = torch.rand(count, model.hp.channels, size, size, generator=torch.Generator().manual_seed(1))
    return [{"image": image} for image in drawn]


def loader(data: list) -> DataLoader:
    return DataLoader(data, 4, generator=torch.Generator())  # else it takes its seed from everybody's


def fit(model: LightningModule, folder: Any, data: Any, steps: int = 4, resume: Any = None, **options: Any) -> Trainer:
    options = {"max_steps": steps, "limit_val_batches": 0, "enable_checkpointing": False, **options}
    run = trainer(folder, **options)
    loaders = [loader(data)] * 2 if isinstance(data, list) else [data]
    run.fit(model, *loaders, ckpt_path=resume, weights_only=resume and True)
    return run


class Probe(LightningModule):
    """Somebody's model of what another model sees."""

    def __init__(self, model: ObjectModel) -> None:
        super().__init__()
        self.seer = model.eval().requires_grad_(False)
        self.head = torch.nn.Linear(4, 1)
        self.seen: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        boxes = self.seer.eval()(batch["image"]).boxes
        self.seen.append(boxes)
        return self.head(boxes / 64).square().mean()

    test_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.head.parameters(), 1e-3)


@pytest.fixture
def trained(tmp_path) -> ObjectModel:
    model = make()
    fit(model, tmp_path, images(model), 7)
    return model.eval()


def test_a_frozen_model_sees_the_same_in_the_fit_of_another_before_and_after(trained, tmp_path) -> None:
    data = images(trained, 4)
    batch = torch.stack([row["image"] for row in data])
    with torch.no_grad():
        before = trained(batch)
        trained.steps_trained = 0
        assert not torch.equal(trained(batch).boxes, before.boxes)  # it does matter where it stands
        trained.steps_trained = 7
    probe = Probe(trained)
    run = fit(probe, tmp_path, data, 3)
    run.test(probe, loader(data), verbose=False)
    assert len(probe.seen) == 4
    for boxes in probe.seen:
        torch.testing.assert_close(boxes, before.boxes)
    run.save_checkpoint(tmp_path / "probe.ckpt")
    again = Probe(make())
    again.load_state_dict(torch.load(tmp_path / "probe.ckpt", weights_only=True)["state_dict"])
    with torch.no_grad():
        assert torch.equal(again.seer(batch).boxes, before.boxes)
    assert trained.steps_trained == again.seer.steps_trained == 7


def test_a_rebuilt_copied_or_pickled_model_sees_the_same(trained) -> None:
    batch = torch.stack([row["image"] for row in images(trained, 4)])
    with torch.no_grad():
        expected = trained(batch)
        rebuilt = type(trained)(**trained.hparams).eval()
        rebuilt.load_state_dict(trained.state_dict())
        for model in (rebuilt, copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
            assert (model.steps_trained, int(model.step)) == (7, 7)
            for name in ("boxes", "presence", "reconstruction"):
                assert torch.equal(getattr(model(batch), name), getattr(expected, name))


def test_a_trainer_that_only_tested_saves_and_loads_where_the_model_stands(trained, tmp_path) -> None:
    run = trainer(tmp_path)
    run.test(trained, loader(images(trained)), verbose=False)
    run.save_checkpoint(tmp_path / "tested.ckpt")
    assert run.global_step == 0
    loaded = zoo.load(tmp_path / "tested.ckpt")
    assert loaded.steps_trained == loaded.record()["step"] == 7
    resumed = make()
    trainer(tmp_path).test(
        resumed, loader(images(trained)), ckpt_path=tmp_path / "tested.ckpt", weights_only=True, verbose=False
    )
    assert resumed.steps_trained == 7
    assert type(trained).load_from_checkpoint(tmp_path / "tested.ckpt", weights_only=True).steps_trained == 7


def test_checkpoints_from_before_the_step_was_kept_say_it_in_their_record(trained, tmp_path) -> None:
    run = fit(trained, tmp_path, images(trained), 2)
    run.save_checkpoint(tmp_path / "new.ckpt")
    content = torch.load(tmp_path / "new.ckpt", weights_only=True)
    del content["state_dict"]["step"]
    torch.save(content, tmp_path / "old.ckpt")
    assert zoo.load(tmp_path / "old.ckpt").steps_trained == 9
    del content["zoo"]["step"]  # older still
    content["global_step"] = 2
    torch.save(content, tmp_path / "older.ckpt")
    assert zoo.load(tmp_path / "older.ckpt").steps_trained == 2
    model = make()
    fit(model, tmp_path, images(model), 2, resume=tmp_path / "old.ckpt")  # as many as it has
    assert model.steps_trained == 9
    with pytest.raises(RuntimeError, match="edge"):  # what else is missing is still missed
        make(SPAIR).load_state_dict({k: v for k, v in make(SPAIR).state_dict().items() if k != "edge"})


def test_fine_tuning_goes_on_from_the_models_own_step(trained, tmp_path) -> None:
    run = fit(trained, tmp_path, images(trained), 2)
    assert (trained.steps_trained, run.global_step) == (9, 2)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(schedule_value(LR, 9))
    trained.advance()  # as a loop without a trainer has it
    assert (trained.steps_trained, int(trained.step)) == (10, 10)


@pytest.mark.parametrize("every", [1, 3])
def test_steps_are_counted_once_whatever_they_are_made_of(every: int, tmp_path) -> None:
    model = make(AIR)
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(model, tmp_path, images(model, 40), 5, accumulate_grad_batches=every, callbacks=[saved],
        enable_checkpointing=True)  # fmt: skip
    assert model.steps_trained == 5
    for step in range(1, 6):
        assert zoo.load(tmp_path / f"step={step}.ckpt").steps_trained == step


# noise


def losses_of(model: ObjectModel, folder: Any, **options: Any) -> dict[str, float]:
    run = fit(model, folder, images(model), 3, **options)
    return {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize("kind", TINY)
def test_the_users_seed_decides_the_noise_of_training_and_of_nothing_else(kind, tmp_path) -> None:
    start = make(kind)

    def tuned(seed: int) -> tuple[dict[str, Tensor], Tensor]:
        model = copy.deepcopy(start)
        torch.manual_seed(seed)
        fit(model, tmp_path, images(model), 3)
        return model.state_dict(), torch.rand(3)

    (first, after), (same, again), (other, elsewhere) = tuned(5), tuned(5), tuned(6)
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))  # as if there had been no training
    assert torch.equal(after, again)
    assert not torch.equal(after, elsewhere)


def test_validation_repeats_itself_and_leaves_the_users_random_numbers_alone(tmp_path) -> None:
    model = make(AIR)
    batches = loader(images(model))
    drawn, losses = [], []
    for seed in (1, 2, 2):
        torch.manual_seed(seed)
        losses.append(trainer(tmp_path).validate(model, batches, verbose=False)[0]["val/loss"])
        drawn.append(float(torch.rand(())))
    assert losses[0] == losses[1] == losses[2]
    assert drawn[0] != drawn[1] == drawn[2]


def test_noise_differs_from_step_to_step_and_batch_to_batch_of_a_step(tmp_path) -> None:
    drawn: list[Tensor] = []

    class Watched(AIR):
        def draw_noise(self, image: Tensor) -> dict[str, Tensor]:
            noise = super().draw_noise(image)
            drawn.append(noise["where"])
            return noise

    fit(Watched(**TINY[AIR]), tmp_path, images(make(AIR)), 2, accumulate_grad_batches=2)
    assert len(drawn) == 4
    assert len({float(noise.sum()) for noise in drawn}) == 4


def test_seeds_differ_and_leave_no_trace() -> None:
    assert len({mixed_seed(a, b, step=c) for a in range(4) for b in range(4) for c in range(100)}) == 1600
    assert mixed_seed(2**64 - 1, 3) == mixed_seed(2**64 - 1, 3) < 2**32
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(9, torch.device("cpu")):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    assert torch.initial_seed() == 3
    assert not torch.equal(inside, expected)


# learning rates


def test_rates_follow_the_schedule_and_a_monitor_sees_them(tmp_path) -> None:
    model = make(SPAIR)
    logger = CSVLogger(tmp_path)
    fit(model, tmp_path, images(model, 40), 8, logger=logger, log_every_n_steps=1, callbacks=[LearningRateMonitor()])
    header, *rows = (line.split(",") for line in (tmp_path / logger.log_dir / "metrics.csv").read_text().splitlines())
    place = header.index("lr-Adam")
    seen = [float(row[place]) for row in rows if row[place]]
    assert seen == pytest.approx([schedule_value(LR, step) for step in range(8)])


def test_a_resumed_run_has_the_rates_of_the_whole_one_or_those_that_are_wished_for_now(tmp_path, uci_data) -> None:
    rates: list[float] = []

    class Watch(ModelCheckpoint):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    def run(steps: int, resume: Any = None, **settings: Any) -> ObjectModel:
        model, watch = make(AIR, **settings), Watch(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        data = uci_data(image_size=16, num_digits=1)
        fit(model, tmp_path, data, steps, resume, callbacks=[watch], enable_checkpointing=True)
        return model

    whole = run(6)
    assert rates == pytest.approx([schedule_value(LR, step) for step in range(6)])
    rates.clear()
    resumed = run(6, tmp_path / "step=3.ckpt")
    assert rates == pytest.approx([schedule_value(LR, step) for step in range(3, 6)])
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    rates.clear()
    run(5, tmp_path / "step=3.ckpt", lr=0.5)
    assert rates == [0.5, 0.5]


def test_the_learning_rate_finder_sets_what_it_tries_and_what_it_finds(tmp_path) -> None:
    model = make(AIR)
    before = copy.deepcopy(model.state_dict())
    data = loader(images(model, 160))
    found = Tuner(trainer(tmp_path, max_steps=3, limit_val_batches=0)).lr_find(
        model, data, num_training=30, min_lr=1e-6, max_lr=1e-2, early_stop_threshold=None
    )
    assert found.results["lr"][0] < 1e-5 < 1e-3 < found.results["lr"][-1]
    losses = [loss for loss in found.results["loss"] if loss == loss]
    assert len({round(loss, 3) for loss in losses}) > 6  # rates that are overruled would not show
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert model.steps_trained == 0
    assert model.hp.lr == found.suggestion()
    run = fit(model, tmp_path, images(model), 2)
    assert run.optimizers[0].param_groups[0]["lr"] == model.hp.lr


def test_the_learning_rate_finder_as_a_callback_does_not_use_up_steps(tmp_path) -> None:
    model = make(AIR, gradient="nvil", baseline_lr=7e-4)
    finder = LearningRateFinder(num_training_steps=20, min_lr=1e-5, max_lr=1e-3)
    run = fit(model, tmp_path, images(model, 120), 3, callbacks=[finder])
    assert model.steps_trained == run.global_step == 3
    rates = [group["lr"] for group in run.optimizers[0].param_groups]
    assert rates == [model.hp.lr, 7e-4]  # the other group's rate is its own


def test_the_learning_rate_finder_is_refused_where_it_would_look_too_early(tmp_path) -> None:
    model = make(ASTSegRecipe, background=str(tmp_path / "nowhere"), frozen_steps=5)
    with pytest.raises(ValueError, match=r"LearningRateFinder would.*before.*call model.load_pretrained\(\) first"):
        Tuner(trainer(tmp_path, max_steps=3)).lr_find(model, loader(images(model)))


@pytest.mark.parametrize("averaging", [partial(EMAWeightAveraging, decay=0.5), WeightAveraging])
def test_averaging_weights_leaves_the_step_what_it_is(averaging: Any, tmp_path, uci_data) -> None:
    model, data = make(), uci_data(image_size=64)
    seen: list[int] = []
    model.on_validation_epoch_end = lambda: seen.append(model.steps_trained)  # type: ignore[method-assign]
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    options = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    fit(model, tmp_path, data, 6, callbacks=[averaging(), saved], enable_checkpointing=True, **options)
    assert seen == [2, 4, 6]
    assert (model.steps_trained, int(model.step)) == (6, 6)
    content = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert int(content["state_dict"]["step"]) == int(content["current_model_state"]["step"]) == 3
    name = "background_activation"
    assert content["state_dict"][name] != content["current_model_state"][name]
    assert zoo.load(tmp_path / "step=3.ckpt").steps_trained == 3
    resumed, options = make(), {"callbacks": [averaging(), saved], "enable_checkpointing": True, **options}
    fit(resumed, tmp_path, uci_data(image_size=64), 6, tmp_path / "step=3.ckpt", **options)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in model.state_dict().items())


def test_stochastic_weight_averaging_has_its_own_rate(tmp_path) -> None:
    model = make(SPAIR)
    rates: list[float] = []
    model.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    average = StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=2, annealing_epochs=1)
    fit(model, tmp_path, images(model, 8), -1, max_epochs=5, callbacks=[average])
    assert rates[:3] == pytest.approx([schedule_value(LR, step) for step in range(3)])
    assert rates[-1] == pytest.approx(0.02)
    assert all(a <= b for a, b in pairwise(rates[2:]))
    assert (model.steps_trained, int(model.step)) == (10, 10)
