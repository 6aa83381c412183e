import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DistributedSampler

from datamodules import Batch, SceneDataModule, SceneDataset
from datamodules import base as module
from datamodules.base import TrainSampler

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # resumed runs write elsewhere on purpose
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


class Numbers(SceneDataset):
    """Scene i is the number i."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def batch(self, indices):
        return Batch(image=torch.as_tensor(indices).float().view(-1, 1, 1, 1))


class NumbersDataModule(SceneDataModule):
    name = "numbers"
    image_shape = (1, 1, 1)
    num_classes = max_objects = 1

    def __init__(self, train: int = 83, evaluation: int = 11, **kwargs) -> None:
        super().__init__(**kwargs)
        self.lengths = {"train": train, "val": evaluation, "test": evaluation}

    def make_dataset(self, split):
        return Numbers(self.lengths[split])


class Recorder(LightningModule):
    """Writes down what it is trained and evaluated on."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder = folder
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": []}

    def training_step(self, batch: Batch) -> Tensor:
        self.seen["train"].append(batch["image"].flatten().long().tolist())
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: Batch) -> None:
        self.seen["val"].append(batch["image"].flatten().long().tolist())

    def on_fit_end(self) -> None:
        if self.folder is not None:
            (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: SceneDataModule, folder: Path, steps: int, ckpt_path: str | None = None, **trainer) -> Recorder:
    model = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    arguments = {"callbacks": [saver], "num_sanity_val_steps": 0, **quiet, **trainer}
    Trainer(max_steps=steps, **arguments).fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [7, 20, 27])
def test_a_resumed_run_sees_the_very_next_batch(tmp_path, workers, stop):
    """Epochs of 20 batches: stopped in the middle of the first, at its end, and in the middle of the second."""
    whole = fit(NumbersDataModule(batch_size=4, num_workers=workers), tmp_path / "whole", 45)
    epochs = [torch.tensor(whole.seen["train"][start : start + 20]).flatten().tolist() for start in (0, 20)]
    assert all(len(set(epoch)) == 80 for epoch in epochs)
    assert epochs[0] != epochs[1]
    part = fit(NumbersDataModule(batch_size=4, num_workers=workers), tmp_path / "part", stop)
    rest = fit(
        NumbersDataModule(batch_size=4, num_workers=workers),
        tmp_path / "rest",
        45,
        str(tmp_path / f"part/step={stop}.ckpt"),
    )
    assert part.seen["train"] + rest.seen["train"] == whole.seen["train"]
    assert len(part.seen["train"]) == stop


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_from_a_checkpoint_of_validation_goes_on_too(tmp_path, workers):
    """Validation every 7 steps across epochs, saved when it ends, as a killed run would leave it."""

    def run(folder: str, steps: int, ckpt_path: str | None = None) -> Recorder:
        saver = ModelCheckpoint(tmp_path / folder, "{step}", save_top_k=-1)
        data = NumbersDataModule(batch_size=4, num_workers=workers)
        arguments = {"val_check_interval": 7, "check_val_every_n_epoch": None, "callbacks": [saver]}
        return fit(data, tmp_path, steps, ckpt_path, **arguments)

    whole = run("whole", 45)
    for step in (14, 28, 42):
        rest = run("rest", 45, str(tmp_path / f"whole/step={step}.ckpt"))
        assert rest.seen["train"] == whole.seen["train"][step:]


def test_epochs_cut_short_start_anew_and_resume_where_they_were(tmp_path):
    whole = fit(NumbersDataModule(batch_size=4), tmp_path / "whole", 17, limit_train_batches=5)
    full = fit(NumbersDataModule(batch_size=4), tmp_path / "full", 45)
    assert whole.seen["train"][5:10] == full.seen["train"][20:25]
    for step in (3, 5, 8):
        path = str(tmp_path / f"whole/step={step}.ckpt")
        rest = fit(NumbersDataModule(batch_size=4), tmp_path / "rest", 17, path, limit_train_batches=5)
        assert rest.seen["train"] == whole.seen["train"][step:]


def test_runs_counted_in_epochs_resume_too(tmp_path):
    epochs = {"max_epochs": 3, "accumulate_grad_batches": 3}
    whole = fit(NumbersDataModule(batch_size=4), tmp_path / "whole", -1, **epochs)
    assert len(whole.seen["train"]) == 60
    for step in (4, 7, 10):  # steps of 3 batches, the last of an epoch of 2: after 12, 20 and 29 batches
        path = str(tmp_path / f"whole/step={step}.ckpt")
        rest = fit(NumbersDataModule(batch_size=4), tmp_path / "rest", -1, path, **epochs)
        assert rest.seen["train"] == whole.seen["train"][{4: 12, 7: 20, 10: 29}[step] :]


def test_loaders_leave_the_generator_of_the_model_alone():
    data = NumbersDataModule(batch_size=4)
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    got = []
    for loader in (data.train_dataloader(), data.val_dataloader()):
        got.append(torch.rand(()))
        assert len(list(loader)) == len(loader)
    assert torch.equal(torch.stack(got), wanted)


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = TrainSampler(Numbers(50), 10, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert sorted(order(0, 1)) == list(range(50))
    orders = {tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_ranks_share_out_the_batches_of_one_process_and_resume_in_another_number(monkeypatch):
    single = TrainSampler(Numbers(103), 12, seed=5)
    batches = torch.tensor(list(single)).view(-1, 12)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(module, "processes", lambda rank=rank: (rank, 3))
        shares.append(TrainSampler(Numbers(103), 4, seed=5))
        assert len(shares[-1]) == 32
    assert torch.equal(torch.cat([torch.tensor(list(share)).view(-1, 4) for share in shares], 1), batches)
    for share in shares:
        share.start = 60
    assert torch.equal(torch.cat([torch.tensor(list(share)).view(-1, 4) for share in shares], 1), batches[5:])


def test_a_batch_larger_than_the_data_is_made_smaller_and_said(tmp_path):
    with pytest.warns(UserWarning, match=r"batch_size=84: there are 83 training scenes, so batches have 83"):
        model = fit(NumbersDataModule(batch_size=84), tmp_path, 2)
    assert [len(batch) for batch in model.seen["train"]] == [83, 83]
    assert sorted(model.seen["train"][0]) == sorted(model.seen["train"][1]) == list(range(83))
    assert model.seen["train"][0] != model.seen["train"][1]
    with pytest.raises(ValueError, match=r"batch_size=84.*at most 83"):
        TrainSampler(Numbers(83), 84, seed=0)


@pytest.mark.filterwarnings("error")
def test_a_batch_of_all_the_data_is_as_asked_for():
    assert NumbersDataModule(batch_size=83).train_dataloader().batch_size == 83


def test_batches_of_several_processes_are_made_smaller_alike(monkeypatch):
    for rank in range(3):
        monkeypatch.setattr(module, "processes", lambda rank=rank: (rank, 3))
        with pytest.warns(UserWarning, match="so batches have 3$"):
            loader = NumbersDataModule(train=11, batch_size=4).train_dataloader()
        assert (loader.batch_size, len(loader)) == (3, 1)
    with pytest.raises(ValueError, match="2 training scenes for 3 processes"):
        NumbersDataModule(train=2).train_dataloader()


def test_overfitting_and_prediction_work(tmp_path):
    """Lightning replaces the sampler for both, which rebuilds the loader."""
    model = fit(NumbersDataModule(batch_size=4), tmp_path, 6, overfit_batches=3)
    assert model.seen["train"][:3] == model.seen["train"][3:] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]

    class Predictor(Recorder):
        def predict_step(self, batch: Batch) -> Tensor:
            return batch["image"].flatten()

    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    predictions = trainer.predict(Predictor(), NumbersDataModule(batch_size=4))
    assert torch.cat(predictions).tolist() == list(range(11))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_two_processes_see_every_validation_scene_once_and_disjoint_training_batches(tmp_path):
    data = NumbersDataModule(train=40, evaluation=11, batch_size=4)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Recorder(tmp_path), data)
    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    validated = [number for rank in seen for batch in rank["val"] for number in batch]
    assert sorted(validated) == sorted([*range(11)] * 2)  # 2 epochs
    single = fit(NumbersDataModule(train=40, batch_size=8), tmp_path, 10)
    pairs = [a + b for a, b in zip(seen[0]["train"], seen[1]["train"], strict=True)]
    assert pairs == single.seen["train"]


def test_more_processes_than_scenes_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "processes", lambda: (0, 12))
    with pytest.raises(ValueError, match="11 val scenes for 12 processes"):
        NumbersDataModule().val_dataloader()


def test_lightning_leaves_the_training_sampler_alone():
    assert isinstance(NumbersDataModule().train_dataloader().sampler, DistributedSampler)
    assert os.environ.get("WORLD_SIZE") is None
