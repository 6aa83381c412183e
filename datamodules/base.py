"""What all datamodules share: datasets that yield whole batches, loaders, and a training order that can be resumed."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Sized
from dataclasses import fields
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.batch import Batch

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.floating[Any]]  # of 32 bits wherever there are many
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

_Options = TypeVar("_Options")


class SceneDataset(Dataset[Batch], ABC):
    """Scenes of which any number can be had at once, without collation of single scenes.

    `SceneDataModule` loads by `batch`; PyTorch's `DataLoader` works as with every map-style dataset.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes `indices` (non-negative), stacked."""

    def __getitem__(self, index: int) -> Batch:
        """Scene `index`, without the batch dimension."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        batch = cast(dict[str, Tensor], self.batch([index % len(self)]))
        return cast(Batch, {key: value[0] for key, value in batch.items()})


class _Batches(Dataset[Batch]):
    """A dataset that hands PyTorch's loader whole batches, which a plain one could not collate by default."""

    def __init__(self, scenes: SceneDataset) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Batch:
        return self.scenes[index]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.scenes.batch(indices)


def _pass_on(batch: Batch) -> Batch:
    return batch


def processes() -> tuple[int, int]:
    """(rank, world size) of this process, (0, 1) where nothing is distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def largest_batch(samples: int) -> int:
    """Of how many samples each process can have a whole batch.

    Raises:
        ValueError: There are fewer samples than processes.
    """
    _, world_size = processes()
    if samples < world_size:
        raise ValueError(f"{samples} training scenes for {world_size} processes: every process needs at least one")
    return samples // world_size


class TrainSampler(DistributedSampler[int]):
    """Training order as a pure function of (seed, epoch, position).

    Each epoch is a permutation, cut into global batches of `batch_size * num_replicas` samples, of which each rank
    takes its contiguous share; the rest that fills no batch is dropped. So all ranks together see the batches that one
    process with the larger batch size sees. A subclass of DistributedSampler, as Lightning leaves those alone.

    Args:
        dataset: Only its length is used.
        batch_size: Samples in the batch of one rank.
        seed: Of all permutations.

    Attributes:
        epoch: Set by Lightning at the start of each epoch.
        start: Position in the epoch, in samples of all ranks, where iteration starts.

    Raises:
        ValueError: The data set is smaller than one global batch.
    """

    def __init__(self, dataset: Sized, batch_size: int, seed: int) -> None:
        rank, world_size = processes()
        super().__init__(cast(Dataset[Any], dataset), num_replicas=world_size, rank=rank, seed=seed, drop_last=True)
        self.samples = len(dataset)
        self.batch_size = batch_size
        self.start = 0
        self.global_batch = batch_size * world_size
        self.num_samples = self.samples // self.global_batch * batch_size
        self.total_size = self.num_samples * world_size
        if self.num_samples == 0:
            raise ValueError(
                f"batch_size={batch_size}: {self.samples} training scenes do not fill one batch in each of "
                f"{world_size} process(es); must be at most {largest_batch(self.samples)}"
            )

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch."""
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(_mix(self.seed, self.epoch)))
        batches = order[: self.total_size].view(-1, self.num_replicas, self.batch_size)
        # A run resumed with another batch size or world size goes on with the batch that holds its position.
        return iter(batches[self.start // self.global_batch :, self.rank].flatten().tolist())


def _mix(seed: int, epoch: int) -> int:
    """One seed from two, so that (seed 0, epoch 1) and (seed 1, epoch 0) differ (splitmix64's constant)."""
    return (seed * 0x9E3779B97F4A7C15 + epoch) % 2**63


class TrainLoader(DataLoader[Batch]):
    """A loader that goes on at the very next batch after a checkpoint from the middle of an epoch.

    Lightning saves and restores loaders that have `state_dict` and `load_state_dict`. The position counts the batches
    that were handed out, not those that workers have fetched ahead. (A run that reaches `max_steps` amid an epoch has
    ended that epoch in Lightning's books: a checkpoint made after that, not at a step, goes on with the next epoch.)
    """

    _epoch = 0
    _position = 0  # samples of all ranks handed out in this epoch
    _resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: it starts at its first `next`, by when Lightning has told the sampler the epoch.
        sampler = self.sampler if isinstance(self.sampler, TrainSampler) else None
        self._epoch = sampler.epoch if sampler else 0
        # A state of another epoch was saved when that epoch had ended.
        resumes = self._resume is not None and self._resume["epoch"] == self._epoch
        self._position = self._resume["position"] if resumes and self._resume else 0
        self._resume = None
        if sampler:
            sampler.start = self._position
            self._position -= self._position % sampler.global_batch
        for batch in super().__iter__():
            self._position += sampler.global_batch if sampler else self.batch_size or 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and position within it in samples of all ranks."""
        return dict(self._resume or {"epoch": self._epoch, "position": self._position})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict` at the next iteration."""
        self._resume = {"epoch": int(state_dict["epoch"]), "position": int(state_dict["position"])}


class SceneDataModule(LightningDataModule, ABC):
    """Loaders for the three splits of a data set of scenes, and what a model may know of the data beforehand.

    Args:
        batch_size: Training scenes in a batch of one process, or as many as there are.
        eval_batch_size: The same in evaluation; null: `batch_size`.
        num_workers: Processes that load batches; 0 loads in the main process, which is fastest for data in memory.
        seed: Of the training order.

    Raises:
        ValueError: A parameter is out of its range.
    """

    def __init__(
        self, *, batch_size: int = 32, eval_batch_size: int | None = None, num_workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        check("batch_size", batch_size, batch_size >= 1, "at least 1")
        check("eval_batch_size", eval_batch_size, eval_batch_size is None or eval_batch_size >= 1, "at least 1 or null")
        check("num_workers", num_workers, num_workers >= 0, "at least 0")
        check("seed", seed, seed >= 0, "at least 0")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.datasets: dict[Split, SceneDataset] = {}

    def _keep_options(self, kind: type[_Options]) -> _Options:
        """Keep the arguments of the constructor that calls this as `hparams`, and make a dataclass of its fields' ones.

        Raises:
            ValueError: One of them is out of its range.
        """
        caller = getattr(inspect.currentframe(), "f_back", None)
        # names may clash with the model's: the run folder has the config
        self.save_hyperparameters(logger=False, frame=caller)
        names = [each.name for each in fields(cast(Any, kind)) if each.init]
        return kind(**{name: self.hparams[name] for name in names})

    @property
    @abstractmethod
    def name(self) -> str:  # type: ignore[override]
        """Names the data in run folders, logs and tables: what differs in name is not to be compared."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the validation and test images."""

    @property
    def train_image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images."""
        return self.image_shape

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes that `labels` tells apart."""

    @property
    @abstractmethod
    def max_objects(self) -> int:
        """N of the batch: the most objects in a scene."""

    @property
    def looks(self) -> str | None:
        """What images of one's own are like as they are; null where the data set is known by its name."""
        return None

    @property
    def has_objects(self) -> bool:
        """Whether it is known what objects are in the images, and where."""
        return True

    @abstractmethod
    def make_dataset(self, split: Split) -> SceneDataset:
        """The scenes of a split; downloads or generates what is not on disk yet."""

    def prepare_data(self) -> None:
        """Download or generate all splits, in one process."""
        for split in SPLITS:
            self.make_dataset(split)

    def setup(self, stage: str | None = None) -> None:
        """Load the splits that `stage` needs: "fit", "validate", "test", "predict", or null for all."""
        wanted: dict[str | None, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": ("test",),
        }
        for split in wanted.get(stage, SPLITS):
            if split not in self.datasets:
                self.datasets[split] = self.make_dataset(split)

    def train_dataloader(self) -> TrainLoader:
        """Shuffled; the last batch is dropped if it is not full.

        Where there are too few scenes for a batch, it is as large as they allow, with a warning.
        """
        dataset = self._dataset("train")
        batch_size = min(self.batch_size, largest_batch(len(dataset)))
        if batch_size < self.batch_size:
            rank_zero_warn(
                f"batch_size={self.batch_size}: there are {len(dataset)} training scenes, so batches have {batch_size}"
            )
        sampler = TrainSampler(dataset, batch_size, self.seed)
        return TrainLoader(_Batches(dataset), batch_size=batch_size, sampler=sampler, drop_last=True, **self._loading())

    def val_dataloader(self) -> DataLoader[Batch]:
        """In order, every scene once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """In order, every scene once."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test scenes."""
        return self._eval_loader("test")

    def _dataset(self, split: Split) -> SceneDataset:
        if split not in self.datasets:
            self.setup({"train": "fit", "val": "validate", "test": "test"}[split])
        return self.datasets[split]

    def _eval_loader(self, split: Split) -> DataLoader[Batch]:
        dataset = self._dataset(split)
        rank, world_size = processes()
        sampler = None
        if world_size > 1:
            if len(dataset) < world_size:
                raise ValueError(
                    f"{len(dataset)} {split} scenes for {world_size} processes: every process needs at least one"
                )
            # PyTorch's own sampler repeats scenes until all ranks have equally many, which falsifies metrics.
            sampler = UnrepeatedDistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        return DataLoader(_Batches(dataset), batch_size=self.eval_batch_size, sampler=sampler, **self._loading())

    def _loading(self) -> dict[str, Any]:
        return {
            "collate_fn": _pass_on,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            # Seeds the workers, and keeps the loader from drawing from the generator that the model draws from.
            "generator": torch.Generator().manual_seed(self.seed),
        }


def check(name: str, value: object, holds: bool, allowed: str) -> None:
    """Raise a ValueError that names the parameter, its value and what is allowed, unless `holds`."""
    if not holds:
        raise ValueError(f"{name}={value!r}: must be {allowed}")


def size_name(pair: tuple[int, int]) -> str:
    """`48` for (48, 48), else `48x64`."""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def range_name(pair: tuple[float, float]) -> str:
    """`3` for (3, 3), else `1to5`."""
    return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g}to{pair[1]:g}"
