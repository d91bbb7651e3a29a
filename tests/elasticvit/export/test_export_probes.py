"""Probes: single blocks as files, the same function and MACs as in torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from elasticvit import Arch
from elasticvit.archs.published import published
from elasticvit.archs.space import small
from elasticvit.cli.app import app
from elasticvit.costs.blocks import BlockKind, blocks
from elasticvit.costs.flops import block_macs
from elasticvit.errors import ExportError
from elasticvit.export.block_probes import choose_blocks, probe_block, probe_blocks
from elasticvit.export.graph.fold import fold_block
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.nn.random_net import random_layer


@pytest.mark.medium
@pytest.mark.parametrize("arch", [small().smallest(), published("T1")], ids=["small", "T1"])
def test_every_kind_of_block(arch: Arch) -> None:
    seen: set[tuple[BlockKind, int, bool]] = set()
    for block in blocks(arch):
        kind = (block.kind, block.stride, block.squeeze)
        if kind in seen:
            continue
        seen.add(kind)
        probe = probe_block(block)
        assert tflite_macs(probe.tflite) == block_macs(block) > 0
        assert {op.block for op in probe.ops} == {0}
    assert {kind for kind, _, _ in seen} == set(BlockKind)


def test_the_same_block_gives_the_same_bytes() -> None:
    block = blocks(small().largest())[3]
    assert probe_block(block).tflite == probe_block(block).tflite
    assert probe_block(block, seed=1).tflite != probe_block(block).tflite


def test_blocks_are_drawn_without_repetition() -> None:
    chosen = choose_blocks(small(), 40, np.random.default_rng(0))
    assert len(set(chosen)) == len(chosen) == 40
    assert chosen == choose_blocks(small(), 40, np.random.default_rng(0))
    with pytest.raises(ExportError, match="1 block or more"):
        choose_blocks(small(), 0, np.random.default_rng(0))


def test_blocks_come_as_they_are_made() -> None:
    progress: list[tuple[int, int]] = []
    chosen = choose_blocks(small(), 3, np.random.default_rng(1))
    made = [probe.block for probe in probe_blocks(chosen, lambda done, total: progress.append((done, total)))]
    assert made == list(chosen) and progress == [(1, 3), (2, 3), (3, 3)]


def test_a_block_in_training_mode_is_refused() -> None:
    block = blocks(small().smallest())[1]
    with pytest.raises(ExportError, match="training mode"):
        fold_block(block, random_layer(block, 0).train())


@pytest.mark.medium
def test_probes_are_written_with_a_list_of_them(tmp_path: Path) -> None:
    out = tmp_path / "probes"
    done = CliRunner().invoke(app, ["probes", "--space", "small", "--blocks", "3", "--subnets", "2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (out / "probes.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["block"] * 3 + ["subnet"] * 2
    for line in lines:
        assert tflite_macs((out / line["file"]).read_bytes()) == line["macs"]
