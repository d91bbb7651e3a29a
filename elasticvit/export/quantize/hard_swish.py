"""The same function without hard swish, for delegates that have it in float only.

XNNPACK takes HARD_SWISH, RSQRT and SOFTMAX as floats and nothing else (LiteRT's XNNPACK delegate, `VisitUnaryNode`,
`VisitSoftmaxNode`). 6 · hard swish is x · relu6(x + 3): an addition with a fused activation and a product, both of
which it takes in int8. The factor of 6 passes through everything linear, and the next weights are divided by it, so it
costs nothing. Only where such a value is added to another one, a product divides by it.
"""

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from elasticvit.export.graph.ops import (
    Activation,
    Add,
    AvgPool,
    Conv,
    Depthwise,
    FullyConnected,
    Graph,
    HardSwish,
    Mean,
    Mul,
    Op,
    Pad,
    Reshape,
    Split,
    Transpose,
    Value,
)

_O = TypeVar("_O", bound=Op)


def without_hard_swish(graph: Graph) -> Graph:
    """An equal graph in which an addition and a product replace each hard swish."""
    weighted = next(op for op in graph.ops if isinstance(op, Conv | Depthwise | FullyConnected))
    rewrite = _Rewrite(weighted.weight.dtype)
    for op in graph.ops:
        rewrite.take(op)
    return replace(graph, ops=tuple(rewrite.ops), output=rewrite.plain(graph.output, graph.ops[-1]))


@dataclass
class _Rewrite:
    """Builds the new graph; `times` holds the factor by which one of its values is too large."""

    dtype: np.dtype[np.floating[Any]]
    ops: list[Op] = field(default_factory=list)
    times: dict[Value, float] = field(default_factory=dict)
    plain_of: dict[Value, Value] = field(default_factory=dict)

    def take(self, op: Op) -> None:
        factors = [self.times.get(value, 1.0) for value in op.inputs]
        match op:
            case HardSwish():
                self._product(op)
            case Conv() | Depthwise() | FullyConnected():
                self.ops.append(_divided(op, factors[0]))
            case Mean() | Reshape() | Transpose() | Pad() | AvgPool() | Split():
                self._keep(op, factors[0])
            case Mul() if op.constant is None:
                self._keep(op, factors[0] * factors[1])
            case _:
                self.ops.append(replace(op, inputs=tuple(self.plain(value, op) for value in op.inputs)))

    def plain(self, value: Value, reader: Op) -> Value:
        """The value without its factor; a product that divides by it is added where it is needed."""
        factor = self.times.get(value, 1.0)
        if factor == 1.0:
            return value
        if value not in self.plain_of:
            name = f"{value.name}_plain"
            self.plain_of[value] = Value(name, value.shape)
            shape = (1,) * len(value.shape)
            constant = np.full(shape, 1 / factor, self.dtype)
            self.ops.append(
                Mul(name=name, block=reader.block, inputs=(value,), outputs=(self.plain_of[value],), constant=constant)
            )
        return self.plain_of[value]

    def _keep(self, op: Op, factor: float) -> None:
        self.ops.append(op)
        self.times |= {value: factor for value in op.outputs if factor != 1.0}

    def _product(self, op: HardSwish) -> None:
        x = self.plain(op.x, op)
        gate = Value(f"{op.name}_gate", x.shape)
        three = np.full((1,) * len(x.shape), 3, self.dtype)
        self.ops += [
            Add(
                name=gate.name,
                block=op.block,
                inputs=(x,),
                outputs=(gate,),
                constant=three,
                activation=Activation.RELU6,
            ),
            Mul(name=op.name, block=op.block, inputs=(x, gate), outputs=op.outputs),
        ]
        self.times[op.y] = 6.0


def _divided(op: _O, factor: float) -> _O:
    if factor == 1.0:
        return op
    assert isinstance(op, Conv | Depthwise | FullyConnected)
    weight = (op.weight.astype(np.float64) / factor).astype(op.weight.dtype)
    return replace(op, weight=weight)
