"""Errors of the datamodules, each naming the cause and the fix."""


class DatasetNotFoundError(FileNotFoundError):
    """A data set's files are neither on disk nor can they be downloaded."""


class DatasetCorruptError(ValueError):
    """A data set's file is damaged: cut short, or not in the format that its name promises."""


class CacheError(OSError):
    """The cache folder cannot be written."""


class ImageError(ValueError):
    """An image that cannot be read, or that is none."""
