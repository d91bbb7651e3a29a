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
    Answer,
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
    assert main(["--out", str(out)]) == 0
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


@pytest.mark.medium
def test_every_network_of_the_table_and_the_card_is_in_the_picture(drawn: Path) -> None:
    assert len(_markers(drawn, EVALUATED_ID)) == len(AccuracyTable.load(TABLE).top1)
    assert len(_markers(drawn, FRONT_ID)) == len(read_front()) == CARD.read_text().count(" ± 0.")
    assert len(_markers(drawn, ANSWERS_ID)) == len(read_answers().answers)


def test_the_plot_states_that_nothing_was_measured_on_a_phone(drawn: Path) -> None:
    assert any("not a phone" in text for text in _texts(drawn))


def test_drawing_twice_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.svg"
    main(["--out", str(again)])
    assert again.read_bytes() == drawn.read_bytes()


def test_the_front_begins_with_the_smallest_network_of_the_space() -> None:
    smallest = AccuracyTable.load(TABLE).space.smallest()
    first = read_front()[0]
    assert first.arch_id == smallest.id and first.mmacs == pytest.approx(macs(smallest) / 1e6, abs=0.05)


SWEEP = """reachable on this machine: 0.105 to 1.802 ms (upper bounds, confidence 0.9)
  budget        0.954 ms
  budget ms   measured ms   verified   top-1   MMACs   answered in s
      0.275         0.249       True   77.1%     3.9             3.8
      0.614         0.631      False   81.0%    12.7             9.0
      1.632         1.541       True   86.2%    33.2             4.1
"""


@pytest.mark.medium
def test_the_verified_answers_of_a_sweep_replace_those_that_are_drawn(tmp_path: Path) -> None:
    sweep, answers, out = tmp_path / "sweep.txt", tmp_path / "answers.json", tmp_path / "front.svg"
    sweep.write_text(SWEEP)
    main(["--sweep", str(sweep), "--machine", "a test", "--answers", str(answers), "--out", str(out)])
    read = read_answers(answers)
    assert read.machine == "a test"
    assert read.answers == (Answer(0.275, 0.249, 3.9, 77.1), Answer(1.632, 1.541, 33.2, 86.2))
    assert len(_markers(out, ANSWERS_ID)) == 2
    assert {"0.28 ms: 77.1 %", "1.63 ms: 86.2 %"} <= set(_texts(out))


def test_a_sweep_without_a_verified_answer_changes_nothing(tmp_path: Path) -> None:
    sweep, answers = tmp_path / "sweep.txt", tmp_path / "answers.json"
    sweep.write_text("demo failed: the service was not ready\n")
    with pytest.raises(ValueError, match="no verified answer"):
        main(["--sweep", str(sweep), "--answers", str(answers), "--out", str(tmp_path / "front.svg")])
    assert list(tmp_path.iterdir()) == [sweep]


def test_a_card_without_the_table_is_an_error(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(re.sub(r"(?m)^\|.*$", "", CARD.read_text()))
    with pytest.raises(ValueError, match="no table"):
        read_front(card)
