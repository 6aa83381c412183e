"""TFRecord files of `tf.train.Example`s, without TensorFlow.

A file is a sequence of records: length (8 bytes, little-endian), masked CRC-32C of the length (4), data, masked CRC-32C
of the data (4); often all of it compressed by gzip. The data are a protocol buffer, `tf.train.Example`: a map from
names to lists of byte strings, of floats or of integers.

Sources: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/{example,feature}.proto for the formats;
RFC 3720, appendix B.4, for test values of CRC-32C.
"""

import functools
import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from datamodules.base import Array
from datamodules.errors import DatasetCorruptError, DatasetNotFoundError

UInt32 = npt.NDArray[np.uint32]

POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
MASK_DELTA = 0xA282EAD8
STREAMS = 1024  # parts of a long record whose checksums are computed side by side
LONGEST = 2**26  # bytes of a record unless more are admitted; the published ones have up to 4 MB
PIECE = 2**20  # bytes read at a time: a length that is not true costs no memory


def read_examples(
    path: Path, features: Mapping[str, tuple[tuple[int, ...], str]], start: int = 0
) -> Iterator[dict[str, Array]]:
    """Read the examples of a file one by one.

    Byte strings are joined: whether a feature is one string or one string a byte makes no difference.

    Args:
        path: The file, compressed by gzip or not.
        features: Those wanted: shape of each, and "uint8" (of byte strings), "float32" or "int64".
        start: Examples to skip; their checksums are not looked at.

    Yields:
        The wanted features of each example from `start` on.

    Raises:
        DatasetNotFoundError: The file is not there.
        DatasetCorruptError: It is cut short or damaged, or an example has not these features; the message names the
            file and the record.
    """
    for number, record in enumerate(read_records(path, start), start):
        try:
            found = parse_example(record, features)
            for name, (shape, dtype) in features.items():
                if name not in found:
                    raise ValueError(f"there is no feature {name!r}")
                size = int(np.prod(shape, dtype=np.int64))
                values = found[name]
                if values.dtype != dtype or values.size != size:
                    raise ValueError(
                        f"feature {name!r} holds {values.size} values of type {values.dtype}, expected {size} of type "
                        f"{dtype} for shape {shape}"
                    )
                found[name] = values.reshape(shape)
        except ValueError as error:
            raise DatasetCorruptError(
                f"record {number} of {path}: {error}; is it the published file of this data set?"
            ) from error
        yield found


def read_records(path: Path, start: int = 0, longest: int = LONGEST) -> Iterator[bytes]:
    """Yield the data of each record of a file, from number `start` on.

    Args:
        path: The file, compressed by gzip or not.
        start: Records to skip; their checksums are not looked at.
        longest: Bytes that a record has at most.

    Raises:
        DatasetNotFoundError: The file is not there.
        DatasetCorruptError: It is empty, cut short or damaged; the message names the file and the record.
    """
    number = 0
    try:
        with _open(path) as file:
            while header := _read(file, 12):
                if len(header) < 12:
                    raise EOFError
                if _masked(crc32c(header[:8])) != int.from_bytes(header[8:], "little"):
                    raise ValueError("the checksum of its length is wrong" if number else "it is no TFRecord file")
                length = int.from_bytes(header[:8], "little")
                if length > longest:
                    raise ValueError(f"it announces {length} bytes, more than {longest}")
                data = _read(file, length + 4)
                if len(data) < length + 4:
                    raise EOFError
                record, checksum = data[:length], int.from_bytes(data[length:], "little")
                if number >= start:
                    if _masked(crc32c(record)) != checksum:
                        raise ValueError("the checksum of its data is wrong")
                    yield record
                number += 1
            if number == 0:
                raise EOFError
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path} is not there") from error
    except (EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        if isinstance(error, DatasetCorruptError):
            raise
        ended = f"the file {'ends within it' if number or path.stat().st_size else 'is empty'}"
        why = ended if isinstance(error, EOFError) else str(error)
        raise DatasetCorruptError(f"{path} is damaged at record {number}: {why}; download it again") from error


def parse_example(record: bytes, wanted: Mapping[str, Any] | None = None) -> dict[str, Array]:
    """Parse a serialized `tf.train.Example`.

    Args:
        record: What was serialized.
        wanted: Names of the features to parse; null: all.

    Returns:
        A flat array for each feature: uint8 (all byte strings, joined), float32 or int64.

    Raises:
        ValueError: It is no such message.
    """
    features: dict[str, Array] = {}
    for _, entries in _fields(memoryview(record), 1):
        for _, entry in _fields(entries, 1):
            parts = dict(_fields(entry, 1, 2))
            name = bytes(parts.get(1, b"")).decode()
            if wanted is not None and name not in wanted:
                continue
            for kind, values in _fields(parts.get(2, memoryview(b"")), 1, 2, 3):
                features[name] = (_byte_strings, _floats, _integers)[kind - 1](values)
    return features


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`.

    Long data are cut into streams whose registers advance together, four bytes at a time, and are joined afterwards:
    the register is linear in what it has seen. About 200 times as fast as byte by byte.
    """
    if len(data) < 4 * STREAMS:
        register = 0xFFFFFFFF
        table = _bytewise()
        for byte in data:
            register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
        return register ^ 0xFFFFFFFF
    words = -(-len(data) // (4 * STREAMS))  # of each stream
    buffer = np.zeros(4 * words * STREAMS, np.uint8)
    # Zeros in front leave a register of 0 as it is; the initial register of ones goes into the first four bytes.
    buffer[-len(data) :] = np.frombuffer(data, np.uint8)
    buffer[len(buffer) - len(data) :][:4] ^= 0xFF
    columns: UInt32 = np.ascontiguousarray(buffer.view("<u4").reshape(STREAMS, words).T)
    low, high = _wordwise()
    registers: UInt32 = np.zeros(STREAMS, np.uint32)
    for column in columns:
        word = column ^ registers
        registers = low[word & 0xFFFF] ^ high[word >> 16]
    # Pairs of neighbours: the left one has as many zeros still to see as the right one is long.
    step = _zeros(words)
    while len(registers) > 1:
        registers = _apply(step, registers[::2]) ^ registers[1::2]
        step = _apply(step, step)
    return int(registers[0]) ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    """What is stored, as checksums of data that hold checksums are weak."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


@functools.cache
def _bytewise() -> list[int]:
    """Register after each byte, from a register of 0."""
    table: UInt32 = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> np.uint32(1) ^ (table & np.uint32(1)) * np.uint32(POLYNOMIAL)
    return table.tolist()


@functools.cache
def _wordwise() -> tuple[UInt32, UInt32]:
    """Register after four bytes, as a sum of what its lower and its upper half contribute."""
    table = np.array(_bytewise(), np.uint32)
    halves = []
    for shift in (0, 16):
        register = np.arange(2**16, dtype=np.uint32) << np.uint32(shift)
        for _ in range(4):
            register = table[register & 0xFF] ^ (register >> 8)
        halves.append(register)
    return halves[0], halves[1]


@functools.lru_cache(maxsize=64)
def _zeros(words: int) -> UInt32:
    """What `words` words of zeros do to a register: a (32, 32) matrix of bits, its columns as words (32,)."""
    low, high = _wordwise()
    power = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result, factor = power, low[power & 0xFFFF] ^ high[power >> 16]
    while words:
        if words & 1:
            result = _apply(factor, result)
        factor = _apply(factor, factor)
        words >>= 1
    return result


def _apply(matrix: UInt32, registers: UInt32) -> UInt32:
    """A matrix (32,) times registers (n,)."""
    bits = (registers[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return cast(UInt32, np.bitwise_xor.reduce(bits * matrix, axis=1))


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if compressed else path.open("rb")


def _read(file: IO[bytes], size: int) -> bytes:
    """`size` bytes, fewer at the end of the file."""
    data = bytearray()
    while len(data) < size and (more := file.read(min(size - len(data), PIECE))):
        data += more
    return bytes(data)


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A variable-length integer, and where the next thing begins."""
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("it is no tf.train.Example")


def _fields(data: memoryview, *numbers: int) -> Iterator[tuple[int, memoryview]]:
    """Those of a message's fields that have a length and one of the given numbers."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _, position = _varint(data, position)
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("it is no tf.train.Example")
        if position + length > len(data):
            raise ValueError("it is no tf.train.Example")
        if wire == 2 and number in numbers:
            yield number, data[position : position + length]
        position += length


def _byte_strings(data: memoryview) -> Array:
    """All strings of a BytesList, joined: uint8."""
    # The published images have a string for each byte: 0a 01 xx, a million times.
    if len(data) > 2 and data[0] == 0x0A and data[1] < 0x80 and len(data) % (data[1] + 2) == 0:
        strings = np.frombuffer(data, np.uint8).reshape(-1, data[1] + 2)
        if (strings[:, 0] == 0x0A).all() and (strings[:, 1] == data[1]).all():
            return strings[:, 2:].reshape(-1)
    return np.frombuffer(b"".join(value for _, value in _fields(data, 1)), np.uint8)


def _floats(data: memoryview) -> Array:
    """A FloatList, packed or not: float32."""
    if data and data[0] == 0x0D:  # not packed
        flat = np.frombuffer(data, np.uint8)
        if len(flat) % 5 or (flat[::5] != 0x0D).any():
            raise ValueError("it has a damaged list of floats")
        return flat.reshape(-1, 5)[:, 1:].reshape(-1).view("<f4").astype(np.float32)
    values = b"".join(value for _, value in _fields(data, 1))
    if len(values) % 4:
        raise ValueError("it has a damaged list of floats")
    return np.frombuffer(values, "<f4").astype(np.float32)


def _integers(data: memoryview) -> Array:
    """An Int64List, packed or not: int64."""
    values: list[int] = []
    position = 0
    packed = b"".join(value for _, value in _fields(data, 1))
    if not packed:  # each with a key of its own
        while position < len(data):
            _, position = _varint(data, position)
            value, position = _varint(data, position)
            values.append(value)
    else:
        while position < len(packed):
            value, position = _varint(memoryview(packed), position)
            values.append(value)
    return np.array([value % 2**64 for value in values], np.uint64).astype(np.int64)
