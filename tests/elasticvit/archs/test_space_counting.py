"""How many members a space has, against the published number, and against counting them one by one."""

import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from elasticvit.archs.counting import paper_count, reachable_count
from elasticvit.archs.space import paper
from elasticvit.cli.app import app
from tests.elasticvit.tiny_spaces import few_space


def test_the_paper_s_count_with_its_arithmetic() -> None:
    count = paper_count(paper())
    assert count.members == 108_974_561_034_240_000
    assert list(count.factors.values()) == [6, 2, 8, 96, 200, 240, 432, 720, 792]
    assert list(count.factors)[:3] == ["resolution", "first_conv", "stem"]


def test_the_reachable_count_with_its_arithmetic() -> None:
    count = reachable_count(paper())
    assert count.factors == {"widths": 31_502, "others": 687_970_713_600}
    assert count.members == 21_672_453_419_827_200 == paper().count()


@pytest.mark.medium
def test_a_small_space_counted_one_by_one() -> None:
    space = few_space()
    every = np.array(list(itertools.product(*(range(n) for n in space.sizes))), np.int8)
    assert reachable_count(space).members == int(space.valid(every).sum())
    # The first convolution's width is tied to the stem's in a code, and counted twice by the paper.
    assert paper_count(space).members == len(every) * len(space.stem.widths)


def test_the_command_prints_both_counts() -> None:
    done = CliRunner().invoke(app, ["space", "paper"])
    assert done.exit_code == 0
    answer = json.loads(done.stdout)
    assert answer["paper_count"]["members"] == 108_974_561_034_240_000
    assert answer["paper_count"]["arithmetic"].startswith("6 * 2 * 8 * 96 * 200 * 240 * 432 * 720 * 792 = ")
    assert answer["reachable"]["members"] == answer["members"] == 21_672_453_419_827_200
