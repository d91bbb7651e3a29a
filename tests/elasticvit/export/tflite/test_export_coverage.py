"""Every published network goes to XNNPACK in one piece, and moves as little as attention needs."""

from collections import Counter

import pytest
from ai_edge_litert import schema_py_generated as schema

from elasticvit import macs
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import small
from elasticvit.errors import ExportError
from elasticvit.export import TfliteOp, export_net
from elasticvit.export.precision import Precision
from elasticvit.export.tflite.check import TOLERANCE
from elasticvit.export.tflite.delegates import Coverage, coverage, require_whole
from elasticvit.export.tflite.flatbuffer import ModelBuilder
from elasticvit.export.tflite.gpu_rules import why_not
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.nn.random_net import random_net

ATTENTION_MOVES = 3


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    exported = export_net(random_net(PUBLISHED[name], seed=0), None)
    assert exported.manifest.max_relative_difference <= TOLERANCE
    assert tflite_macs(exported.tflite) == macs(PUBLISHED[name])
    delegation = coverage(exported.tflite, exported.ops)
    assert (delegation.partitions, delegation.delegated, delegation.uncovered) == (1, len(exported.ops), ())
    moves = Counter(op.name.rpartition("/")[0] for op in exported.ops if op.builtin == "TRANSPOSE")
    layers = {op.name.rpartition("/")[0] for op in exported.ops if op.builtin == "SOFTMAX"}
    assert set(moves) == layers and max(moves.values()) <= ATTENTION_MOVES


@pytest.mark.medium
@pytest.mark.parametrize("precision", Precision)
def test_every_precision_is_taken_in_one_piece(precision: Precision) -> None:
    exported = export_net(random_net(small().smallest(), seed=0), None, precision=precision)
    delegation = coverage(exported.tflite, exported.ops)
    assert (delegation.partitions, delegation.delegated, delegation.uncovered) == (1, len(exported.ops), ())
    assert exported.manifest.delegate == delegation.summary()


def test_an_operator_that_is_left_is_named_with_its_layer() -> None:
    data, ops = _with_a_sign()
    delegation = coverage(data, ops)
    assert (delegation.operators, delegation.delegated, delegation.partitions) == (3, 2, 2)
    assert [(op.index, op.builtin, op.layer) for op in delegation.uncovered] == [(1, "SIGN", "vit0/odd")]
    assert not delegation.whole
    with pytest.raises(ExportError, match="SIGN at vit0/odd"):
        require_whole(delegation)


def test_operators_other_than_those_written_are_noticed() -> None:
    data, ops = _with_a_sign()
    with pytest.raises(ExportError, match="other operators"):
        coverage(data, ops[:1])


def test_a_damaged_file_is_no_crash() -> None:
    data, ops = _with_a_sign()
    with pytest.raises(ExportError, match="LiteRT does not run"):
        coverage(data[:40], ops)


def test_operators_that_a_gpu_does_not_run_have_a_reason() -> None:
    exported = export_net(random_net(small().smallest(), seed=0), None)
    gpu = coverage(exported.tflite, exported.ops).gpu
    assert {op.builtin for op in gpu} == {"BATCH_MATMUL"}
    assert all(op.layer.endswith("/attention/scores") for op in gpu)
    assert why_not("BATCH_MATMUL", transposed=False) is None
    assert why_not("BROADCAST_TO", transposed=False) == "the delegate has no such operator"


def test_a_whole_file_passes() -> None:
    require_whole(Coverage(3, 3, 1, (), ()))
    with pytest.raises(ExportError, match="in 2 pieces"):
        require_whole(Coverage(3, 3, 2, (), ()))


def _with_a_sign() -> tuple[bytes, tuple[TfliteOp, ...]]:
    """A square, a sign, which XNNPACK does not have, and another square."""
    model = ModelBuilder()
    tensors = [model.tensor(f"t{i}", (1, 64)) for i in range(4)]
    model.operator("MUL", 1, [tensors[0]] * 2, [tensors[1]], schema.MulOptionsT())
    model.operator("SIGN", 1, [tensors[1]], [tensors[2]], schema.SignOptionsT())
    model.operator("MUL", 1, [tensors[2]] * 2, [tensors[3]], schema.MulOptionsT())
    data = model.finish({"x": tensors[0]}, {"y": tensors[3]}, "main", "a test")
    named = [("MUL", "vit0/before"), ("SIGN", "vit0/odd"), ("MUL", "vit0/after")]
    return data, tuple(TfliteOp(i, builtin, name, 0) for i, (builtin, name) in enumerate(named))
