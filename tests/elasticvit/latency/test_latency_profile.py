"""Profiles to block rows: a real one of this machine, and made-up ones with what other runtimes do to a graph."""

import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from android_bench.build import build_host, host_library
from device_agent.bench.result import read_result
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import PRESETS
from elasticvit.costs.blocks import blocks
from elasticvit.errors import PredictorError
from elasticvit.export.api import export_net
from elasticvit.export.tflite.writer import TfliteOp
from elasticvit.latency.alignment import align, candidates
from elasticvit.latency.profile import FileOp, profile_to_rows
from elasticvit.nn.random_net import random_net
from server.wire import OpTime
from tests.op_times import op_time

ARCH: Arch = PRESETS["small"]().decode(PRESETS["small"]().sample(np.random.default_rng(4), 1)[0])


@cache
def _exported() -> tuple[bytes, tuple[TfliteOp, ...]]:
    exported = export_net(random_net(ARCH, 0), None)
    return exported.tflite, exported.ops


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[OpTime]:
    """What LiteRT on this machine makes of a network of the small space."""
    folder: Path = tmp_path_factory.mktemp("profile")
    model, out = folder / "m.tflite", folder / "r.json"
    model.write_bytes(_exported()[0])
    command = [build_host(), "--model", model, "--lib", host_library(), "--runs", 20, "--min-secs", 0, "--profile"]
    subprocess.run([*map(str, command), "--out", str(out)], check=True, capture_output=True)
    return read_result(out.read_bytes()).op_times() or []


def _file_ops() -> list[FileOp]:
    return [FileOp(op.builtin, op.block) for op in _exported()[1]]


@pytest.mark.medium
def test_a_real_profile_is_attributed_whole(real: list[OpTime]) -> None:
    attribution = profile_to_rows(ARCH, real, _file_ops(), p50_ms=0.5)
    assert attribution.coverage == 1.0
    assert attribution.overhead_ms == 0.0
    assert [row.block for row in attribution.rows] == list(blocks(ARCH))
    assert {row.arch_id for row in attribution.rows} == {ARCH.id}
    assert sum(row.ms for row in attribution.rows) == pytest.approx(0.5)
    assert min(row.ms for row in attribution.rows) > 0


def test_in_a_real_profile_only_padding_and_squares_vanish(real: list[OpTime]) -> None:
    """Every other operator has its own line, so every line is where it belongs."""
    ops = _exported()[1]
    places = align([op.tag for op in real], [op.builtin for op in ops])
    assert None not in places
    gone = [ops[i].name for i in sorted(set(range(len(ops))) - set(places))]
    assert gone == [op.name for op in ops if op.builtin == "PAD" or op.name.endswith("norm_square")]


# How XNNPACK names what becomes of each builtin; None where nothing is left of it.
TAGS = {
    "CONV_2D": ["Convolution (NHWC, F32) IGEMM", "Fully Connected (NC, F32) GEMM"],
    "DEPTHWISE_CONV_2D": ["Convolution (NHWC, F32) DWConv"],
    "FULLY_CONNECTED": ["Fully Connected (NC, F32) GEMM", "Fully Connected (NC, QD8, F32, QC8W) GEMM"],
    "BATCH_MATMUL": ["Batch Matrix Multiply (NC, F32) GEMM"],
    "HARD_SWISH": ["HardSwish (NC)", "Unary Elementwise (NC)", "HARD_SWISH"],
    "SOFTMAX": ["Softmax (NC, F32)"],
    "ADD": ["Add (ND)", "Binary Elementwise (ND)"],
    "SUB": ["Subtract (ND)", "Binary Elementwise (ND)"],
    "MUL": ["Multiply (ND)", "Binary Elementwise (ND)", "Square (NC)"],
    "MEAN": ["Mean (ND) Reduce2", "Mean Squared (ND) Reduce2"],
    "RSQRT": ["Reciprocal Square Root (NC)"],
    "RESHAPE": ["Static Reshape (NC)", "Copy (NC, X32)"],
    "TRANSPOSE": ["Transpose (ND, X32) Transpose"],
    "SPLIT": ["Copy (NC, X32)"],
    "PAD": ["Constant Pad (ND, X32)"],
    "AVERAGE_POOL_2D": ["Average Pooling (NHWC, F32) Average Pooling"],
}


@pytest.mark.parametrize("builtin", TAGS)
def test_every_name_is_known(builtin: str) -> None:
    assert all(builtin in candidates(tag) for tag in TAGS[builtin])
    assert set(TAGS) >= {op.builtin for op in _exported()[1]}


@pytest.mark.medium
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_lines_find_their_blocks_whatever_a_runtime_fuses(seed: int) -> None:
    """Squares and some padding vanish, reshapes vanish or come in, names vary: blocks stay as they are but for ties."""
    rng = np.random.default_rng(seed)
    ops = _exported()[1]
    tags, truth = [], []
    for op in ops:
        fused = op.name.endswith("norm_square") or (op.builtin in {"PAD", "RESHAPE"} and rng.random() < 0.5)
        if fused:
            continue
        if rng.random() < 0.02:
            tags.append("Static Reshape (NC)")
            truth.append(-1)
        tags.append(str(rng.choice(TAGS[op.builtin])))
        truth.append(op.block)
    aligned = [None if place is None else ops[place].block for place in align(tags, [op.builtin for op in ops])]
    heavy = [i for i, tag in enumerate(tags) if not tag.startswith(("Static", "Copy", "Transpose"))]
    wrong = [i for i in heavy if aligned[i] != truth[i]]
    assert len(wrong) <= 0.01 * len(heavy)


def _made_up(us: float = 4.0) -> tuple[list[OpTime], list[FileOp]]:
    return [op_time(TAGS[op.builtin][0], us) for op in _exported()[1]], _file_ops()


def test_unknown_operations_are_named_when_they_take_time() -> None:
    profile, ops = _made_up()
    profile.insert(7, op_time("Fancy Fused Attention (NC)", 400.0))
    with pytest.raises(PredictorError, match=r"'Fancy Fused Attention \(NC\)'"):
        profile_to_rows(ARCH, profile, ops, 1.0)


def test_a_little_time_of_nobody_is_overhead() -> None:
    profile, ops = _made_up()
    profile.insert(0, op_time("Input Copy", 10.0))
    attribution = profile_to_rows(ARCH, profile, ops, p50_ms=1.0)
    assert 0.98 < attribution.coverage < 1.0
    assert attribution.overhead_ms > 0
    assert sum(row.ms for row in attribution.rows) + attribution.overhead_ms == pytest.approx(1.0)


def test_operators_of_no_block_are_overhead() -> None:
    profile, ops = _made_up()
    ops = [FileOp(op.builtin, None) if i == 1 else op for i, op in enumerate(ops)]
    assert profile_to_rows(ARCH, profile, ops, p50_ms=1.0).overhead_ms > 0


@pytest.mark.medium
def test_what_rounding_took_is_put_back_where_it_was_taken() -> None:
    """All operators take 0.8 µs but for one of 40.5: a profile in whole microseconds shows only that one."""
    ops = _file_ops()
    heavy = next(i for i, op in enumerate(ops) if op.builtin == "CONV_2D" and op.block == 3)
    true_us = [0.8] * len(ops)
    true_us[heavy] = 40.5
    free = [op.builtin == "RESHAPE" for op in ops]
    true_us = [0.0 if is_free else us for us, is_free in zip(true_us, free, strict=True)]
    profile = [op_time(TAGS[op.builtin][0], float(int(us))) for op, us in zip(ops, true_us, strict=True)]
    attribution = profile_to_rows(ARCH, profile, ops, p50_ms=sum(true_us) / 1e3)
    for i, row in enumerate(attribution.rows):
        truth_ms = sum(us for us, op in zip(true_us, ops, strict=True) if op.block == i) / 1e3
        assert row.ms == pytest.approx(truth_ms, rel=0.01)
    assert attribution.scale == pytest.approx(1.0)


def test_disturbed_runs_do_not_count() -> None:
    """Some runs were interrupted at an addition: its average is ten times its median."""
    profile, ops = _made_up()
    at = next(i for i, op in enumerate(ops) if op.builtin == "ADD")
    profile[at] = op_time("Add (ND)", avg_us=40.0, median_us=4.0)
    quiet = profile_to_rows(ARCH, _made_up()[0], ops, 1.5).rows
    disturbed = profile_to_rows(ARCH, profile, ops, 1.5).rows
    assert [row.ms for row in disturbed] == pytest.approx([row.ms for row in quiet], rel=0.04)


def test_profiles_of_another_network_are_refused() -> None:
    profile, ops = _made_up()
    with pytest.raises(PredictorError, match="nothing of block"):
        profile_to_rows(ARCH, profile, [FileOp(op.builtin, 0) for op in ops], 1.0)
    with pytest.raises(PredictorError, match="beyond"):
        profile_to_rows(ARCH, profile, [FileOp(op.builtin, 999) for op in ops], 1.0)
    with pytest.raises(PredictorError, match="belongs to known blocks"):
        profile_to_rows(ARCH, [], ops, 1.0)
    for p50_ms in (0.0, -1.0, float("nan")):
        with pytest.raises(PredictorError, match="positive"):
            profile_to_rows(ARCH, profile, ops, p50_ms)
