"""A .tflite flatbuffer under construction: tensors, buffers, operator codes, and the bytes at the end.

The object classes come with LiteRT (`schema_py_generated`, made from the schema of the format); this adds what they
leave out: weights aligned as the format asks and packed in one copy, shared small constants, names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import DTypeLike, NDArray

from elasticvit.export.graph.ops import Shape

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
# The format's `force_align` of buffer data, which the generated classes do not carry over.
ALIGNMENT = 16

# The object classes are generated without types.
Generated: TypeAlias = Any

_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
}


@dataclass(frozen=True, eq=False, slots=True)
class Quantization:
    """What integers of a tensor stand for: scale · (integer - zero point).

    Attributes:
        scale: float32, one number, or one for each index of `axis`.
        zero_point: of the whole tensor; 0 where there is a scale for each index.
    """

    scale: NDArray[np.float32]
    zero_point: int = 0
    axis: int = 0


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc] # generated without types
    """Weights that a runtime may map and use where they lie."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - the name that the generated classes call
        builder.Prep(ALIGNMENT, self.data.size)
        offset: int = super().Pack(builder)
        return offset


class ModelBuilder:
    """One subgraph with one signature. Tensors and operators are numbered as they are added."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        # Buffer 0 is empty by convention: it stands for every tensor without constant data.
        self._buffers: list[Generated] = [schema.BufferT()]
        self._codes: dict[tuple[int, int], int] = {}
        self._shared: dict[tuple[str, Shape, bytes], int] = {}
        self._metadata: list[Generated] = []
        self.used: set[tuple[str, int]] = set()
        """Builtin names and versions of the operators so far."""

    def tensor(
        self, name: str, shape: Shape, dtype: DTypeLike = np.float32, quantization: Quantization | None = None
    ) -> int:
        """A tensor that an operator fills, or the caller."""
        return self._tensor(name, shape, _TYPES[np.dtype(dtype)], 0, quantization)

    def constant(self, name: str, data: NDArray[Any], quantization: Quantization | None = None) -> int:
        """A tensor with data in the file: float32, float16, int8, uint8 or int32."""
        buffer = _AlignedBuffer()
        buffer.data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self._buffers.append(buffer)
        return self._tensor(name, data.shape, _TYPES[data.dtype], len(self._buffers) - 1, quantization)

    def shared(self, prefix: str, data: NDArray[Any]) -> int:
        """A small constant, stored once however often it is used, named by what it holds."""
        key = (prefix, data.shape, data.tobytes())
        if key not in self._shared:
            self._shared[key] = self.constant("_".join([prefix, *map(str, data.reshape(-1).tolist())]), data)
        return self._shared[key]

    def operator(
        self, name: str, version: int, inputs: Sequence[int], outputs: Sequence[int], options: Generated
    ) -> None:
        """Append the builtin operator `name` (as in `BuiltinOperator`); `options` is its options object or None."""
        self.used.add((name, version))
        operator = schema.OperatorT()
        code = (getattr(schema.BuiltinOperator, name), version)
        operator.opcodeIndex = self._codes.setdefault(code, len(self._codes))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        self._graph.operators.append(operator)

    def metadata(self, name: str, data: bytes) -> None:
        """Bytes that runtimes pass over."""
        buffer, entry = _AlignedBuffer(), schema.MetadataT()
        buffer.data = np.frombuffer(data, np.uint8)
        self._buffers.append(buffer)
        entry.name, entry.buffer = name, len(self._buffers) - 1
        self._metadata.append(entry)

    def finish(self, inputs: dict[str, int], outputs: dict[str, int], name: str, description: str) -> bytes:
        """The file. `inputs` and `outputs` name tensors in the signature `serving_default`."""
        self._graph.name = name
        self._graph.inputs = np.array(list(inputs.values()), np.int32)
        self._graph.outputs = np.array(list(outputs.values()), np.int32)
        model = schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, description
        model.subgraphs, model.buffers = [self._graph], self._buffers
        model.operatorCodes = [_operator_code(*code) for code in self._codes]
        model.signatureDefs = [_signature(inputs, outputs)]
        model.metadata = self._metadata or None
        # Room for everything at once; a builder that has to grow copies all weights each time.
        weights = sum(buffer.data.size for buffer in self._buffers[1:])
        builder = flatbuffers.Builder(weights + 1024 * (len(self._graph.tensors) + 64))
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(memoryview(builder.Bytes)[builder.Head() :])

    def _tensor(self, name: str, shape: Shape, kind: int, buffer: int, quantization: Quantization | None) -> int:
        tensor = schema.TensorT()
        tensor.quantization = None if quantization is None else _quantization(quantization)
        tensor.name, tensor.type, tensor.buffer, tensor.hasRank = name, kind, buffer, True
        tensor.shape = np.array(shape, np.int32)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


def with_metadata(data: bytes, entries: Mapping[str, bytes]) -> bytes:
    """A file that another writer made, with more that runtimes pass over; entries of these names are replaced.

    What lies behind the model, as a zip of labels does, is left out.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    model.buffers = [_aligned(buffer) for buffer in model.buffers]
    model.metadata = model.metadata or []
    there = {(entry.name or b"").decode("utf-8", "replace"): entry.buffer for entry in model.metadata}
    for name, content in entries.items():
        if name not in there:
            entry = schema.MetadataT()
            entry.name, entry.buffer = name, len(model.buffers)
            model.metadata.append(entry)
            model.buffers.append(schema.BufferT())
        buffer = _AlignedBuffer()
        buffer.data = np.frombuffer(content, np.uint8)
        model.buffers[there.get(name, -1)] = buffer
    builder = flatbuffers.Builder(len(data) + sum(map(len, entries.values())) + 4096)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


def _aligned(buffer: Generated) -> Generated:
    if buffer.data is None:
        return buffer
    aligned = _AlignedBuffer()
    aligned.data = buffer.data
    return aligned


def _quantization(quantization: Quantization) -> Generated:
    parameters = schema.QuantizationParametersT()
    parameters.scale = quantization.scale.reshape(-1)
    parameters.zeroPoint = np.full(parameters.scale.shape, quantization.zero_point, np.int64)
    parameters.quantizedDimension = quantization.axis
    return parameters


def _operator_code(builtin: int, version: int) -> Generated:
    code = schema.OperatorCodeT()
    # Old readers look at a signed byte, where 127 says "see the other field".
    code.deprecatedBuiltinCode, code.builtinCode, code.version = min(builtin, 127), builtin, version
    return code


def _signature(inputs: dict[str, int], outputs: dict[str, int]) -> Generated:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [_tensor_map(*item) for item in inputs.items()]
    signature.outputs = [_tensor_map(*item) for item in outputs.items()]
    return signature


def _tensor_map(name: str, index: int) -> Generated:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry
