"""What a supernet file keeps: half-precision weights, calibration images, the same bytes for the same content."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from elasticvit.errors import SupernetFileError
from elasticvit.nn import tensorfile
from elasticvit.nn.net import randomise_norms
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import CALIBRATION, Card, load_supernet, read_card, replace_supernet, save_supernet
from elasticvit.nn.supernet_header import read_metadata, read_supernet_header, table_path
from tests.elasticvit.training.tiny_training import tiny_space
from tests.small_disk import small_disk

KILLED_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from elasticvit.atomic import PartFile
from elasticvit.nn.supernet_file import load_supernet, replace_supernet
PartFile.keep = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
file = Path(sys.argv[1])
replace_supernet(file, load_supernet(file), load_supernet(file).card, half=True)
"""
CARD = Card("tiny", tuple("0123456789"), "digits", terms="only on Sundays", provenance={"b": 1, "a": [2]})


def _supernet() -> SuperNet:
    torch.manual_seed(0)
    supernet = SuperNet(tiny_space())
    randomise_norms(supernet.net, torch.Generator().manual_seed(1))
    return supernet.eval()


def _images(k: int = 6) -> Tensor:
    return torch.randint(0, 256, (k, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def test_half_precision_halves_the_file_and_hardly_moves_the_answers(tmp_path: Path) -> None:
    supernet = _supernet()
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_supernet(whole, supernet, CARD)
    save_supernet(half, supernet, CARD, half=True)
    with safe_open(half, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 - not a dict
    assert kinds == {torch.float16, torch.int64}
    assert half.stat().st_size < 0.65 * whole.stat().st_size
    loaded = load_supernet(half)
    assert all(tensor.dtype != torch.float16 for tensor in loaded.state_dict().values())
    arch, images = tiny_space().largest(), torch.randn(8, 3, 32, 32)
    with torch.inference_mode():
        exact, rounded = supernet.extract(arch)(images), loaded.extract(arch)(images)
    assert (exact - rounded).norm() < 0.01 * exact.norm()
    assert torch.equal(loaded.net.head.hidden.weight, supernet.net.head.hidden.weight.half().float())


def test_numbers_beyond_half_precision_stay_as_they_are(tmp_path: Path) -> None:
    supernet = _supernet()
    with torch.no_grad():
        supernet.net.head.classify.bias[3] = 1e6
    save_supernet(tmp_path / "x", supernet, CARD, half=True)
    assert torch.equal(load_supernet(tmp_path / "x").net.head.classify.bias, supernet.net.head.classify.bias)


def test_calibration_images_travel_with_the_weights(tmp_path: Path) -> None:
    supernet, images = _supernet(), _images()
    save_supernet(tmp_path / "with", supernet, CARD, half=True, calibration=images)
    save_supernet(tmp_path / "without", supernet, CARD)
    loaded = load_supernet(tmp_path / "with")
    assert loaded.calibration is not None and torch.equal(loaded.calibration, images)
    assert load_supernet(tmp_path / "without").calibration is None
    assert not any("calibration" in name for name in loaded.state_dict())
    assert read_card(tmp_path / "with")[1] == CARD


def test_a_card_scales_images_by_its_mean_and_std() -> None:
    card = Card("x", ("a",), "digits", mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    scaled = card.scaled(torch.tensor([0, 255, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    assert scaled.flatten().tolist() == [-1.0, 3.0, 0.5]


@pytest.mark.parametrize(
    "images", [torch.zeros(6, 3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), _images()[:, :1]]
)
def test_what_is_no_batch_of_images_is_refused(images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(SupernetFileError, match="calibration images must be"):
        save_supernet(tmp_path / "x", _supernet(), CARD, calibration=images)
    assert list(tmp_path.iterdir()) == []
    header = {"format": "elasticvit-supernet/1", "space": tiny_space().to_json()}
    header["card"] = json.dumps({"name": "x", "class_names": list("0123456789"), "data": "digits", "mean": [0, 0, 0]} |
                                {"std": [1, 1, 1]})  # fmt: skip
    state = {**_supernet().net.state_dict(), CALIBRATION: images}
    (tmp_path / "y").write_bytes(tensorfile.encode(state, header))
    with pytest.raises(SupernetFileError, match="calibration images must be"):
        load_supernet(tmp_path / "y")


@pytest.mark.medium
def test_equal_content_is_equal_bytes_in_any_process(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from elasticvit.nn.supernet_file import save_supernet\n"
        "from tests.elasticvit.nn.test_supernet_file import CARD, _images, _supernet\n"
        "save_supernet(pathlib.Path(sys.argv[1]), _supernet(), CARD, half=True, calibration=_images())\n"
    )
    root = str(Path(__file__).parents[3])
    for name, seed in (("a", "1"), ("b", "2")):
        env = os.environ | {"PYTHONPATH": root, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], env=env, check=True, timeout=120)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_writers_bytes_are_what_the_format_s_own_reader_takes() -> None:
    from safetensors.torch import load

    tensors = {
        "flag": torch.tensor([True, False, True]),
        "half": torch.arange(5).half(),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(7),
        "strided": torch.arange(12.0).view(3, 4).t(),
    }
    data = tensorfile.encode(tensors, {"who": "we"})
    loaded = load(data)
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_a_saved_file_can_be_read_by_others(tmp_path: Path) -> None:
    """As any new file, not only by its owner: a package's files are installed for all."""
    plain = tmp_path / "plain"
    plain.touch()
    save_supernet(tmp_path / "x", _supernet(), CARD)
    assert (tmp_path / "x").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("keep", [0, 4, 100, -4000, -1])
def test_a_file_that_is_cut_off_has_no_header(keep: int, tmp_path: Path) -> None:
    save_supernet(tmp_path / "whole", _supernet(), CARD)
    header = read_supernet_header(tmp_path / "whole")
    assert header.space == tiny_space() and header.card["name"] == CARD.name
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:keep])
    for read in (read_supernet_header, read_metadata, read_card):
        with pytest.raises(SupernetFileError, match="is not a whole safetensors file"):
            read(tmp_path / "cut")
    with pytest.raises(SupernetFileError, match="is not a whole safetensors file"):
        read_supernet_header(tmp_path)


def test_a_header_is_read_without_torch_and_without_the_weights(tmp_path: Path) -> None:
    """The file takes more bytes than the process may allocate or read: 4 GB, of which the disk stores only a header."""
    size = 4 << 30
    metadata = {"format": "elasticvit-supernet/1", "space": tiny_space().to_json(), "card": CARD.to_json()}
    text = json.dumps({"__metadata__": metadata, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    with (tmp_path / "large").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text.encode())
        file.truncate(8 + len(text) + size)
    program = (
        "import pathlib, re, sys\n"
        "from elasticvit.nn.supernet_header import read_supernet_header\n"
        "print(read_supernet_header(pathlib.Path(sys.argv[1])).card['name'], 'torch' in sys.modules)\n"
        # Not ru_maxrss, which counts the process that started this one as well.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        r"print(int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) < 1_000_000)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [CARD.name, "False", "True"]


@pytest.mark.parametrize("card", ["[]", "{", "null"])
def test_a_card_that_is_no_object_is_a_damaged_header(card: str, tmp_path: Path) -> None:
    header = {"format": "elasticvit-supernet/1", "space": tiny_space().to_json(), "card": card}
    (tmp_path / "x").write_bytes(tensorfile.encode({}, header))
    with pytest.raises(SupernetFileError, match="has a damaged header"):
        read_supernet_header(tmp_path / "x")


def test_a_table_of_other_weights_is_removed_and_one_of_the_same_is_kept(tmp_path: Path) -> None:
    supernet, file = _supernet(), tmp_path / "tiny.safetensors"
    replace_supernet(file, supernet, CARD)
    table_path(file).write_text("of these weights")
    replace_supernet(file, supernet, CARD)
    assert table_path(file).read_text() == "of these weights"
    replace_supernet(file, supernet, CARD, half=True)
    assert not table_path(file).exists()


def test_a_table_without_its_supernet_does_not_count_for_the_next(tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    table_path(file).write_text("of a supernet that was deleted")
    replace_supernet(file, _supernet(), CARD)
    assert not table_path(file).exists()


def test_a_table_stays_if_the_new_supernet_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    replace_supernet(file, _supernet(), CARD)
    table_path(file).write_text("of these weights")
    with small_disk(1000), pytest.raises(SupernetFileError):
        replace_supernet(file, _supernet(), CARD, half=True)
    assert table_path(file).exists() and load_supernet(file).card == CARD


@pytest.mark.medium
def test_a_writer_killed_before_the_new_file_has_its_name_leaves_the_old_one_whole(tmp_path: Path) -> None:
    """Without a table, which `tabulate` makes again: new weights never lie beside the table of other ones."""
    file = tmp_path / "tiny.safetensors"
    replace_supernet(file, _supernet(), CARD)
    table_path(file).write_text("of these weights")
    kept = file.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED_AT_RENAME, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == kept and not table_path(file).exists()


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(SupernetFileError, match="it is a folder"):
        read_supernet_header(tmp_path)
