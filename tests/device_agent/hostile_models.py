"""Small .tflite files that ask for more than a device should give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.android_bench.tiny_model import TinyModel

GIGABYTE = 10**9


def write_large_arena(path: Path, size_bytes: int) -> Path:
    """Intermediate tensors of `size_bytes` each, from an input and to an output of four numbers."""
    net = TinyModel()
    shape = (size_bytes // 16, 4)
    target = net.tensor((2,), values=np.asarray(shape, np.int32))
    x = net.op("BROADCAST_TO", [net.input((1, 4), "a"), target], shape)
    net.model.operatorCodes[-1].version = 2
    x = net.op("SIGN", [x], shape)
    rows = net.tensor((1,), values=np.asarray([0], np.int32))
    return net.write(path, [net.op("REDUCE_MAX", [x, rows], (4,), schema.ReducerOptionsT())])


def write_large_input(path: Path, size_bytes: int) -> Path:
    """An input and an output of `size_bytes`."""
    net = TinyModel()
    shape = (size_bytes // 16, 4)
    return net.write(path, [net.op("SIGN", [net.input(shape, "a")], shape)])


def write_large_delegated(path: Path, size_bytes: int) -> Path:
    """Intermediate tensors of `size_bytes` that XNNPACK holds."""
    net = TinyModel()
    side = int((size_bytes / 4) ** 0.5)
    x = net.op("ADD", [net.input((side, 1), "a"), net.input((1, side), "b")], (side, side), schema.AddOptionsT())
    x = net.op("MUL", [x, x], (side, side), schema.MulOptionsT())
    both = net.tensor((2,), values=np.asarray([0, 1], np.int32))
    return net.write(path, [net.op("SUM", [x, both], (), schema.ReducerOptionsT())])


def write_endless(path: Path) -> Path:
    """A loop whose condition is always true."""
    net = TinyModel()
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    y = net.op("WHILE", [net.input((1,), "x")], (1,), options)
    net.model.subgraphs += [_condition(net), _body(net)]
    return net.write(path, [y])


def write_slow(path: Path, layers: int, size: int = 128, channels: int = 128) -> Path:
    """Convolutions of 2.4e9 multiply-accumulates each, by default."""
    net = TinyModel()
    x = net.input((1, size, size, channels), "image")
    for _ in range(layers):
        x = net.conv(x, size, (channels, channels))
    area = net.tensor((2,), values=np.asarray([1, 2], np.int32))
    return net.write(path, [net.op("MEAN", [x, area], (1, channels), schema.ReducerOptionsT())])


def write_crashing(path: Path) -> Path:
    """LiteRT does not check the number of pieces that an operator splits a tensor into."""
    net = TinyModel()
    axis = net.tensor((1,), values=np.asarray([77], np.int32))
    options = schema.SplitOptionsT()
    options.numSplits = 0
    return net.write(path, [net.op("SPLIT", [axis, net.input((1, 4), "a")], (1, 4), options)])


def _condition(net: TinyModel) -> schema.SubGraphT:
    return _subgraph(net, "EQUAL", schema.EqualOptionsT(), schema.TensorType.BOOL)


def _body(net: TinyModel) -> schema.SubGraphT:
    return _subgraph(net, "MUL", schema.MulOptionsT(), schema.TensorType.FLOAT32)


def _subgraph(net: TinyModel, name: str, options: object, output_type: int) -> schema.SubGraphT:
    """A graph of one operator on one number and itself."""
    main, graph = net.graph, schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
    net.graph = graph
    a = net.input((1,), "a")
    y = net.op(name, [a, a], (1,), options)
    graph.tensors[y].type, graph.outputs = output_type, [y]
    net.graph = main
    return graph
