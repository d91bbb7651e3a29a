"""What operators cost by the roofline's arithmetic, and how a profile is summed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rates import Rates, addition
from benchmarks.roofline import by_class
from benchmarks.tiles import Tile, fully_connected, tile_length
from benchmarks.work import Product, Work, all_work, dense_work, tile_padded_macs, traffic_bytes
from elasticvit.archs.space import small
from elasticvit.costs.flops import macs
from elasticvit.export.graph.fold import fold
from elasticvit.export.graph.ops import Conv, Depthwise, FullyConnected, Graph, Reshape
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.random_net import random_net
from tests.op_times import op_time

EXACT, WIDE = Tile(1, 1), Tile(7, 32)
_TAGS = {
    "FULLY_CONNECTED": "Fully Connected (NC, F32) GEMM",
    "CONV_2D": "Convolution (NHWC, F32) IGEMM",
    "DEPTHWISE_CONV_2D": "Convolution (NHWC, F32) DWConv",
    "BATCH_MATMUL": "Batch Matrix Multiply (NC, F32) GEMM",
    "HARD_SWISH": "HardSwish (NC)",
    "SOFTMAX": "Softmax (NC, F32)",
}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return fold(random_net(small().smallest(), seed=0))


def test_rows_and_columns_are_rounded_up_to_whole_tiles_but_a_single_row_is_not() -> None:
    assert tile_padded_macs(Product(9, 10, 33), WIDE) == 14 * 10 * 64
    assert tile_padded_macs(Product(1, 10, 33), WIDE) == 10 * 64
    assert tile_padded_macs(Product(14, 10, 32, copies=3), WIDE) == 3 * 14 * 10 * 32


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 500))
def test_padding_never_saves_and_never_adds_a_whole_tile(rows: int, depth: int, columns: int) -> None:
    padded = tile_padded_macs(Product(rows, depth, columns), WIDE)
    assert rows * depth * columns <= padded < (rows + WIDE.rows) * depth * (columns + WIDE.columns)
    assert tile_padded_macs(Product(rows, depth, columns), EXACT) == rows * depth * columns


def test_without_padding_the_work_of_a_graph_is_its_macs(graph: Graph) -> None:
    assert all_work(graph, EXACT).padded_macs == macs(graph.arch)
    assert all_work(graph, WIDE).padded_macs > macs(graph.arch)
    dense = [op for op in graph.ops if isinstance(op, Conv | FullyConnected)]
    assert dense_work(graph, EXACT).padded_macs == sum(op.macs for op in dense)
    assert dense_work(graph, EXACT).weight_bytes == 4 * sum(op.weight.size + op.bias.size for op in dense)


def test_all_weights_are_counted_once(graph: Graph) -> None:
    file = write_tflite(graph).data
    assert dense_work(graph, EXACT).weight_bytes < all_work(graph, EXACT).weight_bytes < len(file)


def test_what_only_relabels_memory_moves_nothing(graph: Graph) -> None:
    reshape = next(op for op in graph.ops if isinstance(op, Reshape))
    depthwise = next(op for op in graph.ops if isinstance(op, Depthwise))
    assert traffic_bytes(reshape) == 0 < traffic_bytes(depthwise)


def test_seconds_are_work_over_rates() -> None:
    rates = Rates(gemm_macs_per_s=100.0, dram_bytes_per_s=10.0, elementwise_bytes_per_s=20.0)
    assert Work(200, 30, 40).seconds(rates) == 2 + 3 + 2


def test_a_tile_ends_where_time_steps_up() -> None:
    assert tile_length(range(2, 10), [8.6, 8.5, 8.6, 8.6, 8.7, 8.6, 16.5, 16.4]) == 7
    assert tile_length([8, 16, 24, 32], [50.0, 51.0, 99.0, 100.0]) == 16
    with pytest.raises(ValueError, match="no step in time"):
        tile_length([8, 16, 24], [50.0, 51.0, 52.0])


def test_probes_are_files_with_the_macs_that_their_shapes_say() -> None:
    assert tflite_macs(fully_connected(3, 8, 4)) == 3 * 8 * 4
    assert tflite_macs(addition((1, 2, 2, 8))) == 0


def test_a_profile_is_summed_by_kind_and_products_by_grid(graph: Graph) -> None:
    file = write_tflite(graph)
    kept = [op for op in file.ops if op.builtin in _TAGS]
    lines = tuple(op_time(_TAGS[op.builtin], avg_us=20.0, median_us=10.0) for op in kept)
    sums = by_class(graph, file, lines)
    # Times are rounded down to whole microseconds: half of one is put back.
    assert sum(sums.values()) == pytest.approx(10.5 * len(lines))
    assert sums["depthwise"] == 10.5 * sum(op.builtin == "DEPTHWISE_CONV_2D" for op in kept)
    side = graph.arch.resolution // 2
    assert sums[f"conv/FC {side}x{side}"] > 0 and sums["conv/FC one row (head, squeeze-excite)"] > 0
    dense = sum(isinstance(op, Conv | FullyConnected) for op in graph.ops)
    assert sum(us for name, us in sums.items() if name.startswith("conv/FC")) == pytest.approx(10.5 * dense)


def test_what_reads_nothing_gets_nothing_back(graph: Graph) -> None:
    file = write_tflite(graph)
    line = op_time(_TAGS["CONV_2D"], avg_us=0.4, median_us=0.0)
    assert sum(by_class(graph, file, (line,)).values()) == 0
