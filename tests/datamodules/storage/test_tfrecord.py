import gzip
import itertools
import re
import tracemalloc

import numpy as np
import pytest
from helpers_tfrecord import example, frame, write_records

from datamodules import DatasetCorruptError, DatasetNotFoundError
from datamodules.storage.tfrecord import crc32c, parse_example, read_examples, read_records

FEATURES = {"image": ((5, 4, 3), "uint8"), "x": ((7,), "float32"), "n": ((2, 2), "int64")}


def make_features(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (5, 4, 3), np.uint8),
        "unwanted": rng.integers(0, 256, 900, np.uint8),
        "x": rng.normal(size=7).astype(np.float32),
        "n": rng.integers(-(2**62), 2**62, (2, 2)),
    }


def literal_crc32c(data: bytes) -> int:
    """Bit by bit: polynomial division of the complemented message."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_crc32c_has_the_values_of_rfc_3720():
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(bytes(range(31, -1, -1))) == 0x113FDB5C


@pytest.mark.parametrize("size", [1, 3, 4095, 4096, 4097, 4100, 8191, 8192, 20_001])
def test_crc32c_is_the_same_side_by_side_and_bit_by_bit(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    assert crc32c(data) == literal_crc32c(data)
    assert crc32c(data[:-1] + bytes([data[-1] ^ 1])) != crc32c(data)


@pytest.mark.parametrize("compress", [True, False])
def test_records_come_back(tmp_path, compress):
    written = [make_features(seed) for seed in range(6)]
    path = write_records(
        tmp_path / "x.tfrecords", [frame(example(features)) for features in written], compress=compress
    )
    for start in (0, 4, 6, 9):
        read = list(read_examples(path, FEATURES, start))
        assert len(read) == max(6 - start, 0)
        for got, features in zip(read, written[start:], strict=True):
            assert got.keys() == FEATURES.keys()
            for name, value in got.items():
                assert value.dtype == features[name].dtype
                assert np.array_equal(value, features[name])


def test_byte_strings_are_joined_however_they_are_cut():
    value = np.random.default_rng(0).integers(0, 256, 600, np.uint8).tobytes()
    for cuts in ([0, 600], list(range(601)), list(range(0, 601, 10)), list(range(0, 601, 200)), [0, 1, 129, 300, 600]):
        strings = [value[start:stop] for start, stop in itertools.pairwise(cuts)]
        assert parse_example(example({"a": strings}))["a"].tobytes() == value
    # strings of which the first one looks as if all had its length
    tricky = [b"\x0a\x02xy", b"\x0a\x04\x0a\x04ab", b"q", b""]
    assert parse_example(example({"a": tricky}))["a"].tobytes() == b"".join(tricky)
    assert parse_example(example({"a": []}))["a"].size == 0


def test_numbers_may_be_written_one_by_one():
    """The older encoding of repeated numbers, a key before each."""
    floats = b"".join(b"\x0d" + np.float32(v).tobytes() for v in (1.5, -2.0))
    integers = b"\x08\x03" + b"\x08" + b"\xff" * 9 + b"\x01"
    entries = b""
    for name, kind, values in ((b"f", 2, floats), (b"i", 3, integers)):
        feature = bytes([kind << 3 | 2, len(values)]) + values
        entry = b"\x0a\x01" + name + b"\x12" + bytes([len(feature)]) + feature
        entries += b"\x0a" + bytes([len(entry)]) + entry
    parsed = parse_example(b"\x0a" + bytes([len(entries)]) + entries)
    assert parsed["f"].tolist() == [1.5, -2.0]
    assert parsed["i"].tolist() == [3, -1]


def flip(position: int):
    return lambda data: data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def test_damage_is_named_with_file_and_record(tmp_path):
    good = [frame(example(make_features(seed))) for seed in range(3)]
    bad_data = frame(example(make_features(1)), flip(100))
    path = tmp_path / "x.tfrecords"
    for records, compress, message in (
        ([good[0], bad_data], True, "record 1: the checksum of its data"),
        ([good[0], good[1], flip(3)(good[2])], True, "record 2: the checksum of its length"),
        ([flip(9)(good[0])], False, "record 0: it is no TFRecord file"),
        ([b"\x89PNG" * 100], False, "record 0: it is no TFRecord file"),
        ([good[0], good[1][:-1]], False, "record 1: the file ends within it"),
        ([good[0], good[1][:5]], True, "record 1: the file ends within it"),
        ([good[0], frame(b"\x0a\x7fx")], True, "record 1 .*: it is no tf.train.Example"),
        ([frame(example({"image": make_features(0)["image"]}))], True, "record 0 .*: there is no feature 'x'"),
        (
            [frame(example({**make_features(0), "x": np.zeros(6, np.float32)}))],
            True,
            r"feature 'x' holds 6 values of type float32, expected 7 of type float32",
        ),
        ([frame(example({**make_features(0), "n": [b"abcd"]}))], True, "'n' holds 4 values of type uint8, expected 4"),
    ):
        write_records(path, records, compress=compress)
        with pytest.raises(DatasetCorruptError, match=message) as error:
            list(read_examples(path, FEATURES))
        assert str(path) in str(error.value)
    with pytest.raises(DatasetNotFoundError, match=re.escape(str(tmp_path / "none"))):
        list(read_records(tmp_path / "none"))
    # records that are skipped are not checked, so that a conversion goes on quickly
    write_records(path, [good[0], bad_data, good[2]])
    assert len(list(read_records(path, 2))) == 1


@pytest.mark.parametrize("damage", ["cut short", "bit flipped", "checksum"])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    path = write_records(tmp_path / "x.tfrecords", [frame(example(make_features(seed))) for seed in range(40)])
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut short": content[:middle],
            "bit flipped": content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :],
            "checksum": content[:-8] + bytes(4) + content[-4:],
        }[damage]
    )
    with pytest.raises(DatasetCorruptError, match=r"x\.tfrecords is damaged at record \d+: .*; download it again"):
        list(read_examples(path, FEATURES))


def test_memory_does_not_grow_with_the_file(tmp_path):
    """A megabyte of zeros a record, thousandfold compressed: only one is ever held."""
    record = frame(example({"a": [bytes(2**20)]}))
    path = tmp_path / "x.tfrecords"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(64):
            file.write(record)
    tracemalloc.start()
    assert sum(len(record) > 2**20 for record in read_records(path)) == 64
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_an_empty_file_is_no_data_set_and_a_false_length_costs_no_memory(tmp_path):
    for name, content in (("empty", b""), ("packed", gzip.compress(b""))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetCorruptError, match=rf"{name} is damaged at record 0: the file (is empty|ends)"):
            list(read_records(tmp_path / name))
    length = (10**9).to_bytes(8, "little")
    crc = crc32c(length)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    for name, packed in (("plain", bytes), ("zipped", gzip.compress)):
        (tmp_path / name).write_bytes(packed(length + masked.to_bytes(4, "little") + bytes(1000)))
        with pytest.raises(DatasetCorruptError, match="announces 1000000000 bytes, more than 67108864"):
            list(read_records(tmp_path / name))
        tracemalloc.start()
        with pytest.raises(DatasetCorruptError, match="the file ends within it"):
            list(read_records(tmp_path / name, longest=2**31))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10e6
