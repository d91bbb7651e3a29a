"""Teachers out of files: each kind answers as what it was made from; other files are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from elasticvit.accuracy.evaluate import RECALIBRATION_IMAGES, recalibrate
from elasticvit.data.image_set import digits
from elasticvit.errors import DataError
from elasticvit.nn.net_file import write_net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, save_supernet
from elasticvit.training.distributed import World
from elasticvit.training.loop import fresh_supernet
from elasticvit.training.teachers import load_teacher
from tests.elasticvit.training.tiny_training import tiny_recipe, tiny_space

CPU = World().device
CARD = Card("tiny", digits().class_names, "digits")


def _supernet() -> SuperNet:
    return fresh_supernet(tiny_recipe()).eval()


class Pooled(nn.Module):
    """Any network of somebody else's."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classify = nn.Linear(3, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(images.mean((2, 3)))  # type: ignore[no-any-return]


def _images() -> torch.Tensor:
    return digits().scaled(digits().search.images[:5])


@pytest.mark.medium
def test_a_supernet_teaches_by_its_largest_network(tmp_path: Path) -> None:
    supernet = _supernet()
    save_supernet(tmp_path / "x.safetensors", supernet, CARD)
    teacher = load_teacher(tmp_path / "x.safetensors", digits(), CPU)
    net = recalibrate(
        supernet.extract(tiny_space().largest()), digits().scaled(digits().train.images[:RECALIBRATION_IMAGES])
    )
    with torch.no_grad():
        # Files may hold half precision.
        assert torch.allclose(teacher(_images()), net(_images()), atol=0.02)


def test_an_extracted_network_teaches(tmp_path: Path) -> None:
    net = _supernet().extract(tiny_space().smallest())
    write_net(net, CARD, tmp_path / "net.safetensors")
    teacher = load_teacher(tmp_path / "net.safetensors", digits(), CPU)
    with torch.no_grad():
        assert torch.allclose(teacher(_images()), net(_images()), atol=1e-5)


@pytest.mark.medium
@pytest.mark.parametrize("whole", [True, False])
def test_a_teacher_gets_images_scaled_by_its_own_card(tmp_path: Path, whole: bool) -> None:
    card = replace(CARD, mean=(0.2, 0.3, 0.4), std=(0.3, 0.2, 0.1))
    supernet, path = _supernet(), tmp_path / "x.safetensors"
    net = supernet.extract(tiny_space().largest())
    if whole:
        save_supernet(path, supernet, card)
        recalibrate(net, card.scaled(digits().train.images[:RECALIBRATION_IMAGES]))
    else:
        write_net(net, card, path)
    teacher = load_teacher(path, digits(), CPU)
    with torch.no_grad():
        expected = net.eval()(card.scaled(digits().search.images[:5]))
        assert torch.allclose(teacher(_images()), expected, atol=1e-4)
        assert not torch.allclose(expected, net(_images()), atol=1e-2)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_and_exported_programs_teach(tmp_path: Path) -> None:
    other = Pooled().eval()
    torch.jit.save(torch.jit.script(other), tmp_path / "t.pt")
    batch = torch.export.Dim("batch", min=2)
    torch.export.save(torch.export.export(other, (_images(),), dynamic_shapes=({0: batch},)), tmp_path / "t.pt2")
    for name in ("t.pt", "t.pt2"):
        teacher = load_teacher(tmp_path / name, digits(), CPU)
        assert torch.allclose(teacher(_images()), other(_images()), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_that_cannot_teach_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no teacher file"):
        load_teacher(tmp_path / "none.pt", digits(), CPU)
    for name in ("torn.pt", "torn.pt2", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"torn")
        with pytest.raises(DataError, match="no teacher that can be used"):
            load_teacher(tmp_path / name, digits(), CPU)
    torch.jit.save(torch.jit.script(Pooled(7)), tmp_path / "seven.pt")
    with pytest.raises(DataError, match="to 2 images of 10 classes"):
        load_teacher(tmp_path / "seven.pt", digits(), CPU)
