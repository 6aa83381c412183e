"""What happens while a trainer runs, one callback a file.

`checkpoints` are kept, `pictures` and `clusters` drawn and `tables` printed for whatever logger is there, a `record` of
the run and what was predicted (`writer`) written, what is monitored checked (`monitor`), and `progress` shown.
"""

from zoo.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, LastValidation
from zoo.callbacks.clusters import ClusterPictures
from zoo.callbacks.monitor import MonitorCheck
from zoo.callbacks.pictures import ScenePictures
from zoo.callbacks.progress import StepProgress
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
    "StepProgress",
]
