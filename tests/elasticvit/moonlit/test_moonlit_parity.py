"""Imported weights give what the authors' code gave for them; how that was computed is in fixtures/README.md."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from elasticvit import Arch, load_supernet, paper_mflops
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import paper
from elasticvit.moonlit.importer import import_checkpoint
from elasticvit.moonlit.names import Index, Kind, entries
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet, cut, cut_qkv
from tests.elasticvit.moonlit.moonlit_formula import images, weights

FIXTURES = Path(__file__).parent / "fixtures"
CASES: dict[str, dict[str, Any]] = {
    row["name"]: row for row in json.loads((FIXTURES / "moonlit_archs.json").read_text())
}
TOLERANCE = 1e-5
# Batch statistics over a few images magnify rounding; 5e-6 was measured where the logits were computed.
TRAINING_TOLERANCE = 5e-5

Logits = NDArray[np.float32]


@pytest.fixture(scope="module")
def official() -> dict[str, Logits]:
    with np.load(FIXTURES / "moonlit_logits.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As the authors' training writes it: right indices in the model, truncated ones in the average."""
    shapes = {entry.key: entry.shape for entry in entries()}
    average = {key: torch.from_numpy(np.asarray(value)) for key, value in weights(shapes, shifted=True).items()}
    model = {e.key: average[e.key] if e.kind is Kind.INDEX else torch.zeros(()).expand(e.shape) for e in entries()}
    path = tmp_path_factory.mktemp("moonlit") / "checkpoint.pth.tar"
    torch.save({"epoch": 1, "state_dict": model, "model_ema": average}, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def supernet(checkpoint: Path) -> Iterator[SuperNet]:
    yield from _imported(checkpoint, Index.RECOMPUTED)


def _imported(checkpoint: Path, index: Index) -> Iterator[SuperNet]:
    out = checkpoint.with_name(index.value)
    import_checkpoint(checkpoint, out, index=index)
    yield load_supernet(out)
    out.unlink()


def _net(supernet: SuperNet, arch: Arch) -> Net:
    if supernet.space.contains(arch):
        return supernet.extract(arch)
    # The space has one choice per stage; the rule that cuts knows no such limit.
    with torch.device("meta"):
        net = Net(arch)
    shared = supernet.net.state_dict()
    rules = {name: cut_qkv if name.endswith("qkv.weight") else cut for name in shared}
    tensors = {name: rules[name](shared[name], t.shape).clone() for name, t in net.state_dict().items()}
    net.load_state_dict(tensors, assign=True)
    return net.eval()


def _logits(net: Net, side: int, count: int = 1) -> Logits:
    with torch.no_grad():
        out: Logits = net(torch.from_numpy(images(side, count))).numpy()
    return out


def _distance(ours: Logits, theirs: Logits) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def test_the_cases_are_what_they_should_be() -> None:
    named = {name: Arch.from_moonlit(row["arch"]) for name, row in CASES.items()}
    assert all(named[name] == arch for name, arch in PUBLISHED.items() if name != "min1")
    assert named["max"] == paper().largest() and named["T0"] == paper().smallest()
    drawn = [arch for name, arch in named.items() if name.startswith("random")]
    assert len(set(drawn)) == 24 and all(paper().contains(arch) for arch in drawn)
    assert {arch.resolution for arch in drawn} == set(paper().resolutions)
    assert not any(paper().contains(arch) for name, arch in named.items() if name.startswith("layer-wise"))


@pytest.mark.parametrize("name", CASES)
def test_ten_lists_round_trip(name: str) -> None:
    lists = CASES[name]["arch"]
    assert Arch.from_moonlit(lists).to_moonlit() == lists


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("layer-wise")])
def test_the_published_formula_is_theirs(name: str) -> None:
    assert paper_mflops(Arch.from_moonlit(CASES[name]["arch"])) == pytest.approx(CASES[name]["mflops"], rel=1e-12)


@pytest.mark.medium
@pytest.mark.parametrize("name", CASES)
def test_logits_are_theirs(name: str, supernet: SuperNet, official: dict[str, Logits]) -> None:
    case = CASES[name]
    ours = _logits(_net(supernet, Arch.from_moonlit(case["arch"])), case["side"])
    assert _distance(ours[0, ::4], official[f"eval {name}"]) <= TOLERANCE
    assert np.linalg.norm(ours) == pytest.approx(case["norm"], rel=TOLERANCE)


@pytest.mark.medium
@pytest.mark.parametrize("name", ["T0", "min2"])
def test_training_mode_is_theirs(name: str, supernet: SuperNet, official: dict[str, Logits]) -> None:
    net = _net(supernet, Arch.from_moonlit(CASES[name]["arch"])).train()
    assert _distance(_logits(net, 224, 4)[:, ::4], official[f"train {name}"]) <= TRAINING_TOLERANCE
    variance = net.get_buffer("head.bn.running_var").numpy()[::4]
    assert _distance(variance, official[f"train {name} variance"][: len(variance)]) <= TRAINING_TOLERANCE


@pytest.mark.medium
def test_a_stored_index_reproduces_their_evaluation(checkpoint: Path, official: dict[str, Logits]) -> None:
    for stored in _imported(checkpoint, Index.STORED):
        for key, theirs in official.items():
            if key.startswith("stored"):
                case = CASES[key.removeprefix("stored ")]
                ours = _logits(_net(stored, Arch.from_moonlit(case["arch"])), case["side"])[0, ::4]
                assert _distance(ours, theirs) <= TOLERANCE
                assert 0.003 < _distance(ours, official[f"eval {case['name']}"]) < 0.03
