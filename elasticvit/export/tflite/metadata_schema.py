"""The tables of LiteRT's model metadata that we write, and their bytes: a flatbuffer with the identifier M001.

Facts from the public `metadata_schema.fbs` (version 1.5.0 of that schema): names, numbers and types of fields. Values
are plain mappings, as in `{"name": "images", "stats": {"min": [0.0], "max": [255.0]}}`; a field that is missing or None
is not written and read as None. Nothing here imports torch.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import flatbuffers
from flatbuffers import encode, number_types
from flatbuffers.table import Table

IDENTIFIER = b"M001"
# Everything below was in the first version of the schema.
MIN_PARSER_VERSION = "1.0.0"
RGB = 1
AXIS_LABELS = 2

Values = Mapping[str, Any]


class Plain(Enum):
    """The fields that are no tables."""

    STRING = "string"
    BYTE = "byte"
    UINT = "uint"
    FLOATS = "[float]"


@dataclass(frozen=True, slots=True)
class Part:
    """A field that holds a table; `member` is its number in a union, whose type is stored in the field before."""

    table: str
    member: int | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """A field that holds a vector of tables."""

    table: str


Kind = Plain | Part | Parts

# Field numbers as the schema counts them: a union takes two, and the second is the one named here.
TABLES: Mapping[str, Mapping[str, tuple[int, Kind]]] = {
    "ModelMetadata": {
        "name": (0, Plain.STRING),
        "description": (1, Plain.STRING),
        "version": (2, Plain.STRING),
        "subgraph_metadata": (3, Parts("SubGraphMetadata")),
        "author": (4, Plain.STRING),
        "license": (5, Plain.STRING),
        "min_parser_version": (7, Plain.STRING),
    },
    "SubGraphMetadata": {
        "name": (0, Plain.STRING),
        "input_tensor_metadata": (2, Parts("TensorMetadata")),
        "output_tensor_metadata": (3, Parts("TensorMetadata")),
    },
    "TensorMetadata": {
        "name": (0, Plain.STRING),
        "description": (1, Plain.STRING),
        "content": (3, Part("Content")),
        "process_units": (4, Parts("ProcessUnit")),
        "stats": (5, Part("Stats")),
        "associated_files": (6, Parts("AssociatedFile")),
    },
    "Content": {"feature": (1, Part("FeatureProperties", 1)), "image": (1, Part("ImageProperties", 2))},
    "FeatureProperties": {},
    "ImageProperties": {"color_space": (0, Plain.BYTE), "default_size": (1, Part("ImageSize"))},
    "ImageSize": {"width": (0, Plain.UINT), "height": (1, Plain.UINT)},
    "ProcessUnit": {"normalization": (1, Part("NormalizationOptions", 1))},
    "NormalizationOptions": {"mean": (0, Plain.FLOATS), "std": (1, Plain.FLOATS)},
    "Stats": {"max": (0, Plain.FLOATS), "min": (1, Plain.FLOATS)},
    "AssociatedFile": {"name": (0, Plain.STRING), "description": (1, Plain.STRING), "type": (2, Plain.BYTE)},
}


def encode_metadata(values: Values) -> bytes:
    """A `ModelMetadata` as bytes, the same for the same values."""
    builder = flatbuffers.Builder(4096)
    builder.Finish(_write(builder, "ModelMetadata", values), IDENTIFIER)
    return bytes(builder.Output())


def decode_metadata(data: bytes) -> dict[str, Any]:
    """The values given to `encode_metadata`, or another writer's in the same fields.

    Raises:
        ValueError: the bytes are no metadata, or are damaged.
    """
    if not is_metadata(data):
        raise ValueError("the identifier M001 is missing")
    try:
        root = encode.Get(number_types.UOffsetTFlags.packer_type, data, 0)
        return _read(Table(data, root), "ModelMetadata")
    except (struct.error, IndexError, TypeError) as error:
        raise ValueError(f"the metadata is damaged: {error}") from error


def is_metadata(data: bytes) -> bool:
    """Whether the bytes have the identifier of model metadata."""
    return data[4:8] == IDENTIFIER


def decode_text(data: bytes | None) -> str:
    """A string of a flatbuffer: UTF-8, else Latin-1, which writers on other systems use; "" if it is missing."""
    try:
        return (data or b"").decode()
    except UnicodeDecodeError:
        return (data or b"").decode("latin-1")


def _write(builder: flatbuffers.Builder, table: str, values: Values) -> int:
    """A flatbuffer is written from its leaves: what a table points to is there before the table is begun."""
    given = {name: value for name, value in values.items() if value is not None}
    fields = TABLES[table]
    stored = {name: _store(builder, fields[name][1], value) for name, value in given.items()}
    builder.StartObject(max((number for number, _ in fields.values()), default=-1) + 1)
    for name, value in stored.items():
        number, kind = fields[name]
        match kind:
            case Plain.BYTE:
                builder.PrependInt8Slot(number, value, 0)
            case Plain.UINT:
                builder.PrependUint32Slot(number, value, 0)
            case _:
                builder.PrependUOffsetTRelativeSlot(number, value, 0)
        if isinstance(kind, Part) and kind.member is not None:
            builder.PrependUint8Slot(number - 1, kind.member, 0)
    offset: int = builder.EndObject()
    return offset


def _store(builder: flatbuffers.Builder, kind: Kind, value: Any) -> int:  # noqa: ANN401 - as the field's kind says
    """Where a value begins that does not lie in the table itself; numbers do, and are given back."""
    match kind:
        case Plain.STRING:
            offset: int = builder.CreateString(value)
            return offset
        case Plain.BYTE | Plain.UINT:
            return int(value)
        case Plain.FLOATS:
            return _vector(builder, value, builder.PrependFloat32)
        case Part():
            return _write(builder, kind.table, value)
    tables = [_write(builder, kind.table, values) for values in value]
    return _vector(builder, tables, builder.PrependUOffsetTRelative)


def _vector(builder: flatbuffers.Builder, values: Sequence[Any], prepend: Any) -> int:  # noqa: ANN401
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        prepend(value)
    offset: int = builder.EndVector()
    return offset


def _read(at: Table, table: str) -> dict[str, Any]:
    fields = {name: _load(at, number, kind) for name, (number, kind) in TABLES[table].items()}
    return {name: value for name, value in fields.items() if value is not None}


def _load(at: Table, number: int, kind: Kind) -> Any:  # noqa: ANN401, PLR0911 - one line per kind
    offset = at.Offset(4 + 2 * number)
    if not offset:
        return None
    where = at.Pos + offset
    match kind:
        case Plain.STRING:
            return decode_text(at.String(where))
        case Plain.BYTE:
            return at.Get(number_types.Int8Flags, where)
        case Plain.UINT:
            return at.Get(number_types.Uint32Flags, where)
        case Plain.FLOATS:
            start = at.Vector(offset)
            return [at.Get(number_types.Float32Flags, start + 4 * i) for i in range(at.VectorLen(offset))]
        case Part(table, member):
            if member is not None and at.GetSlot(4 + 2 * (number - 1), 0, number_types.Uint8Flags) != member:
                return None
            return _read(Table(at.Bytes, at.Indirect(where)), table)
    start = at.Vector(offset)
    return [_read(Table(at.Bytes, at.Indirect(start + 4 * i)), kind.table) for i in range(at.VectorLen(offset))]
