"""The work of a graph on a processor: multiply-accumulates rounded up to its tiles, and bytes moved."""

from math import prod
from typing import NamedTuple

from benchmarks.rates import Rates
from benchmarks.tiles import Tile
from elasticvit.export.graph.ops import Conv, Depthwise, Elementwise, FullyConnected, Graph, MatMul, Op, Pad, Reshape

FLOAT_BYTES = 4


class Product(NamedTuple):
    """`copies` products of (rows, depth) by (depth, columns)."""

    rows: int
    depth: int
    columns: int
    copies: int = 1


class Work(NamedTuple):
    """Multiply-accumulates done, bytes of weights read, bytes of activations moved."""

    padded_macs: int
    weight_bytes: int
    traffic_bytes: int

    def seconds(self, rates: Rates) -> float:
        """One after the other, at the rate of a big product, of memory, and of an elementwise operator."""
        return (
            self.padded_macs / rates.gemm_macs_per_s
            + self.weight_bytes / rates.dram_bytes_per_s
            + self.traffic_bytes / rates.elementwise_bytes_per_s
        )


def tile_padded_macs(product: Product, tile: Tile) -> int:
    """Multiply-accumulates done: rows and columns rounded up to whole tiles; a single row is not rounded."""
    rows = product.rows if product.rows == 1 else -(-product.rows // tile.rows) * tile.rows
    columns = -(-product.columns // tile.columns) * tile.columns
    return product.copies * rows * product.depth * columns


def dense_product(op: Op) -> Product | None:
    """A convolution over all channels or a fully connected operator as a matrix product; None for anything else."""
    if isinstance(op, Conv | FullyConnected):
        return Product(prod(op.y.shape[:-1]), prod(op.weight.shape[1:]), op.weight.shape[0])
    return None


def any_product(op: Op) -> Product | None:
    """As `dense_product`, but also products of two activations."""
    if isinstance(op, MatMul):
        *batch, rows, columns = op.y.shape
        return Product(rows, op.x.shape[-1], columns, prod(batch))
    return dense_product(op)


def weight_bytes(op: Op) -> int:
    """Bytes of an operator's weights and bias, or of the table that it adds."""
    if isinstance(op, Conv | FullyConnected | Depthwise):
        return FLOAT_BYTES * (op.weight.size + op.bias.size)
    if isinstance(op, Elementwise) and op.constant is not None:
        return FLOAT_BYTES * op.constant.size
    return 0


def traffic_bytes(op: Op) -> int:
    """Bytes of the activations that an operator reads and writes; none where the runtime only relabels or fuses it."""
    if isinstance(op, Reshape | Pad):
        return 0
    return FLOAT_BYTES * sum(prod(value.shape) for value in (*op.inputs, *op.outputs))


def dense_work(graph: Graph, tile: Tile) -> Work:
    """The work of the convolutions over all channels and of the fully connected operators: products and weights."""
    dense = [(op, product) for op in graph.ops if (product := dense_product(op))]
    done = sum(tile_padded_macs(product, tile) for _, product in dense)
    return Work(done, sum(weight_bytes(op) for op, _ in dense), 0)


def all_work(graph: Graph, tile: Tile) -> Work:
    """The work of a whole graph: all products and weights, and the activations that all other operators move."""
    done, weights, traffic = 0, 0, 0
    for op in graph.ops:
        product = any_product(op)
        weights += weight_bytes(op)
        done += tile_padded_macs(product, tile) if product else op.macs
        traffic += 0 if product else traffic_bytes(op)
    return Work(done, weights, traffic)
