"""TFRecord files as TensorFlow writes them: messages serialized by protobuf, framed here."""

import functools
import gzip
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from datamodules.storage.tfrecord import crc32c


@functools.cache
def example_class() -> Any:
    """`tf.train.Example`, from its definition."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, bool, str], owner: Any = None) -> Any:
        new = file.message_type.add() if owner is None else owner.nested_type.add()
        new.name = name
        for number, (field, kind, label, packed, other) in enumerate(fields, 1):
            added = new.field.add(name=field, number=number, type=kind, label=label)
            if other:
                added.type_name = other
            if packed:
                added.options.packed = True
        return new

    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    message("BytesList", ("value", kinds.TYPE_BYTES, many, False, ""))
    message("FloatList", ("value", kinds.TYPE_FLOAT, many, True, ""))
    message("Int64List", ("value", kinds.TYPE_INT64, many, True, ""))
    lists = ("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")
    feature = message(
        "Feature", *((name, kinds.TYPE_MESSAGE, one, False, f".tensorflow.{kind}") for name, kind in lists)
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", kinds.TYPE_MESSAGE, many, False, ".tensorflow.Features.FeatureEntry"))
    entry = message(
        "FeatureEntry",
        ("key", kinds.TYPE_STRING, one, False, ""),
        ("value", kinds.TYPE_MESSAGE, one, False, ".tensorflow.Feature"),
        owner=features,
    )
    entry.options.map_entry = True
    message("Example", ("features", kinds.TYPE_MESSAGE, one, False, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def example(features: Mapping[str, Any]) -> bytes:
    """A serialized example: uint8 arrays become a string for each byte, lists of bytes stay as they are."""
    made = example_class()()
    for name, value in features.items():
        feature = made.features.feature[name]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif value.dtype == np.uint8:
            flat = value.tobytes()
            feature.bytes_list.value.extend(flat[i : i + 1] for i in range(len(flat)))
        elif value.dtype == np.float32:
            feature.float_list.value.extend(value.ravel().tolist())
        else:
            feature.int64_list.value.extend(value.ravel().tolist())
    return made.SerializeToString()


def frame(data: bytes, damage: Callable[[bytes], bytes] = bytes) -> bytes:
    """A record; `damage` is done to its data after their checksum was taken."""

    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        return (((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")

    length = len(data).to_bytes(8, "little")
    return length + masked(length) + damage(data) + masked(data)


def write_records(path: Path, records: Iterable[bytes], *, compress: bool = True) -> Path:
    """Write framed records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"".join(records)
    path.write_bytes(gzip.compress(content, 1) if compress else content)
    return path
