"""Pictures and tables for whatever logger is there, checkpoints, and what was predicted."""

from zoo.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, LastValidation
from zoo.callbacks.clusters import ClusterPictures
from zoo.callbacks.monitor import MonitorCheck
from zoo.callbacks.pictures import ScenePictures
from zoo.callbacks.record import RunRecord
from zoo.callbacks.tables import MetricTable
from zoo.callbacks.writer import SceneWriter

__all__ = [
    "BestCheckpoint",
    "ClusterPictures",
    "LastCheckpoint",
    "LastValidation",
    "MetricTable",
    "MonitorCheck",
    "RunRecord",
    "ScenePictures",
    "SceneWriter",
]
