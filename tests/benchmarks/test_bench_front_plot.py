"""docs/front.svg is what its command draws from the committed figures."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.front_plot import (
    ANSWERS_ID,
    CARD,
    EVALUATED_ID,
    FRONT_ID,
    OUT,
    TABLE,
    main,
    read_answers,
    read_front,
)
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.costs.flops import macs

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("front") / "front.svg"
    assert main([str(out)]) == 0
    return out


def _markers(file: Path, series: str) -> NDArray[np.float64]:
    """Places of a series' markers, (n, 2) in points of the picture."""
    groups = [group for group in ElementTree.parse(file).iter(f"{SVG}g") if group.get("id") == series]
    uses = [use for group in groups for use in group.iter(f"{SVG}use")]
    return np.array([(float(use.attrib["x"]), float(use.attrib["y"])) for use in uses])


def _texts(file: Path) -> list[str]:
    return [text.text or "" for text in ElementTree.parse(file).iter(f"{SVG}text")]


@pytest.mark.parametrize("series", [FRONT_ID, EVALUATED_ID, ANSWERS_ID])
def test_the_committed_picture_has_the_points_of_the_committed_figures(drawn: Path, series: str) -> None:
    committed, fresh = _markers(OUT, series), _markers(drawn, series)
    assert committed.shape == fresh.shape
    assert np.allclose(committed, fresh, atol=0.5), "run `python -m benchmarks.front_plot`"


def test_the_committed_picture_has_the_labels_of_the_committed_figures(drawn: Path) -> None:
    assert _texts(OUT) == _texts(drawn)


def test_every_network_of_the_table_and_the_card_is_in_the_picture(drawn: Path) -> None:
    assert len(_markers(drawn, EVALUATED_ID)) == len(AccuracyTable.load(TABLE).top1)
    assert len(_markers(drawn, FRONT_ID)) == len(read_front()) == CARD.read_text().count(" ± 0.")
    assert len(_markers(drawn, ANSWERS_ID)) == len(read_answers().answers)


def test_the_picture_says_that_nothing_was_measured_on_a_phone(drawn: Path) -> None:
    assert any("not a phone" in text for text in _texts(drawn))


def test_drawing_twice_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.svg"
    main([str(again)])
    assert again.read_bytes() == drawn.read_bytes()


def test_the_front_begins_with_the_smallest_network_of_the_space() -> None:
    smallest = AccuracyTable.load(TABLE).space.smallest()
    first = read_front()[0]
    assert first.arch_id == smallest.id and first.mmacs == pytest.approx(macs(smallest) / 1e6, abs=0.05)


def test_a_card_without_the_table_is_an_error(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(re.sub(r"(?m)^\|.*$", "", CARD.read_text()))
    with pytest.raises(ValueError, match="no table"):
        read_front(card)
