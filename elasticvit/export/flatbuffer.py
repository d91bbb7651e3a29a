"""A .tflite flatbuffer under construction: tensors, buffers, operator codes, and the bytes at the end.

The object classes come with LiteRT (`schema_py_generated`, made from the schema of the format); this adds what they
leave out: weights aligned as the format asks and packed in one copy, shared small constants, names.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from elasticvit.export.graph import Shape

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
# The format's `force_align` of buffer data, which the generated classes do not carry over.
ALIGNMENT = 16

# The object classes are generated without types.
Generated: TypeAlias = Any

_TYPES = {np.dtype(np.float32): schema.TensorType.FLOAT32, np.dtype(np.int32): schema.TensorType.INT32}


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

    def tensor(self, name: str, shape: Shape) -> int:
        """A float32 tensor that an operator fills."""
        return self._tensor(name, shape, schema.TensorType.FLOAT32, 0)

    def constant(self, name: str, data: NDArray[Any]) -> int:
        """A float32 or int32 tensor with data in the file."""
        buffer = _AlignedBuffer()
        buffer.data = data.reshape(-1).view(np.uint8)
        self._buffers.append(buffer)
        return self._tensor(name, data.shape, _TYPES[data.dtype], len(self._buffers) - 1)

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
        operator = schema.OperatorT()
        code = (getattr(schema.BuiltinOperator, name), version)
        operator.opcodeIndex = self._codes.setdefault(code, len(self._codes))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        self._graph.operators.append(operator)

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
        # Room for everything at once; a builder that has to grow copies all weights each time.
        weights = sum(buffer.data.size for buffer in self._buffers[1:])
        builder = flatbuffers.Builder(weights + 1024 * (len(self._graph.tensors) + 64))
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(memoryview(builder.Bytes)[builder.Head() :])

    def _tensor(self, name: str, shape: Shape, kind: int, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer, tensor.hasRank = name, kind, buffer, True
        tensor.shape = np.array(shape, np.int32)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


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
