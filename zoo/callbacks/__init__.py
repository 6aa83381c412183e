"""Pictures and tables for whatever logger is there."""

from zoo.callbacks.pictures import ScenePictures
from zoo.callbacks.tables import MetricTable

__all__ = ["MetricTable", "ScenePictures"]
