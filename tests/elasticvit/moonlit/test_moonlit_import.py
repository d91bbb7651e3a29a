"""The authors' checkpoint: every entry accounted for, the right weights and index taken, bad files refused."""

import argparse
import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from elasticvit import load_supernet
from elasticvit.archs.space import paper
from elasticvit.cli.app import app
from elasticvit.errors import SupernetFileError
from elasticvit.moonlit.checkpoint import read_checkpoint
from elasticvit.moonlit.importer import convert, import_checkpoint, select
from elasticvit.moonlit.names import Index, Kind, Weights, entries
from elasticvit.nn.net import Net
from elasticvit.nn.supernet_file import read_card
from tests.elasticvit.moonlit.moonlit_formula import averaged, position_index

KEYS = Path(__file__).parent / "fixtures" / "moonlit_keys.txt"
BIAS, INDEX = (f"feature_exactor.5.layers.0.{name}" for name in ("attention_bias", "relative_position_index"))

State = dict[str, Any]
Spoil = Callable[[State], object]


def _state(value: float = 0.5) -> State:
    """All entries, every weight the same number: a file of it is small, as it stores each number once."""
    return {entry.key: _entry(entry.shape, entry.kind, entry.key, value) for entry in entries()}


def _entry(shape: tuple[int, ...], kind: Kind, key: str, value: float) -> Tensor:
    if kind is Kind.INDEX:
        return torch.from_numpy(position_index(round(shape[0] ** 0.5)))
    return torch.tensor(7) if key.endswith("tracked") else torch.tensor(value).expand(shape)


def _file(path: Path, **content: object) -> Path:
    torch.save(content, path)
    return path


def _refused(path: Path, message: str, **options: Any) -> None:  # noqa: ANN401
    out = path.with_name("out")
    with pytest.raises(SupernetFileError, match=message):
        import_checkpoint(path, out, **options)
    assert not out.exists()


def test_the_entries_are_those_of_the_authors_supernet() -> None:
    listed = dict(line.split() for line in KEYS.read_text().splitlines())
    ours = {entry.key: "x".join(map(str, entry.shape)) or "scalar" for entry in entries()}
    assert ours == listed and len(listed) == len(entries()) == 690


def test_every_tensor_of_the_largest_network_has_one_entry() -> None:
    with torch.device("meta"):
        wanted = set(Net(paper().largest()).state_dict())
    named = [entry.name for entry in entries() if entry.kind is Kind.WEIGHT]
    assert set(named) == wanted and len(named) == len(wanted) == 656
    assert sum(np.prod(entry.shape) for entry in entries() if entry.kind is Kind.UNUSED) == 16_768


@pytest.mark.medium
def test_the_command_imports_the_average_and_prints_it(tmp_path: Path) -> None:
    ema = {f"module.{key}": tensor for key, tensor in _state(0.25).items()}
    ema[f"module.{INDEX}"] = torch.from_numpy(averaged(position_index(4)))
    file = _file(tmp_path / "c.pth.tar", epoch=609, state_dict=_state(0.5), model_ema=ema, arch="supernet", bank=[[]])
    out = tmp_path / "no-suffix.whatever"
    done = CliRunner().invoke(app, ["import-checkpoint", str(file), "--from", "moonlit", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "EMA weights" in done.stderr
    report = json.loads(done.stdout)
    assert (report["weights"], report["imported"], report["index"], report["dropped"]) == ("ema", 656, 23, 11)
    assert (report["epoch"], report["index_mode"]) == (609, "recomputed")
    differs = dict(report["index_differs"])
    assert differs.pop(INDEX) == 49 and len(differs) == 22 and set(differs.values()) == {0}
    assert len(report["dropped_entries"]) == 11 and "conv_stem.layers.0.0.shortcut_conv.weight" in done.stdout
    loaded = load_supernet(out)
    assert loaded.space == paper() and loaded.net.get_parameter("head.classify.bias")[0].item() == 0.25
    card = read_card(out)[1]
    assert report.pop("supernet") == str(out)
    assert {key: card.provenance[key] for key in report} == report
    assert card.class_names[:2] == ("0", "1") and card.mean == (0.485, 0.456, 0.406)
    assert card.terms is not None and "non-commercial" in card.terms
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth.tar", "no-suffix.whatever"]


def _value(state: Mapping[str, Tensor]) -> float:
    return float(state["classifer.bias"][0])


@pytest.mark.medium
def test_the_models_own_weights_are_imported_on_request_or_if_alone(tmp_path: Path) -> None:
    both = read_checkpoint(_file(tmp_path / "both", state_dict=_state(0.5), model_ema=_state(0.25)))
    assert [(label, _value(state)) for label, _, state in (select(both), select(both, Weights.MODEL))] == [
        ("ema", 0.25),
        ("model", 0.5),
    ]
    alone = _file(tmp_path / "alone", state_dict=_state(), model_ema=None)
    assert select(read_checkpoint(alone))[:2] == ("model", "there are no EMA weights")
    _refused(alone, "holds no EMA weights, only model", weights=Weights.EMA)


@pytest.mark.medium
def test_a_bare_state_dict_in_either_format_is_taken(tmp_path: Path) -> None:
    state = _state(0.125)
    torch.save(OrderedDict(state), tmp_path / "bare.pth")
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "bare.safetensors")
    for name in ("bare.pth", "legacy.pth", "bare.safetensors"):
        label, _, weights = select(read_checkpoint(tmp_path / name))
        assert label == "unnamed" and weights.keys() == state.keys() and _value(weights) == 0.125
    _refused(tmp_path / "bare.pth", "does not call it EMA", weights=Weights.EMA)


@pytest.mark.medium
def test_other_precisions_become_float32() -> None:
    state = _state(0.125)
    state["classifer.bias"], state["classifer.weight"] = (state[f"classifer.{n}"].half() for n in ("bias", "weight"))
    state["pre_head_1.bias"] = state["pre_head_1.bias"].double()
    supernet, _ = convert(state)
    floats = [tensor for tensor in supernet.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert all(bool((tensor == 0.125).all()) for tensor in floats)


SPOILED: Mapping[str, tuple[Spoil, str]] = {
    "missing": (lambda s: [s.pop(BIAS), s.pop("classifer.bias")], rf"has 688: 2 are missing: {BIAS}, classifer\.bias$"),
    "extra": (lambda s: s.update(swin=torch.ones(1)), r"has 691: 1 do not belong to it: swin"),
    "renamed": (lambda s: s.update(fc=s.pop("classifer.weight")), r"1 are missing: classifer\.weight"),
    "other space": (
        lambda s: s.update({"first_conv.weight": torch.ones(32, 3, 3, 3)}),
        r"first_conv\.weight has shape \(32, 3, 3, 3\), the authors' supernet has \(24, 3, 3, 3\); .*another space",
    ),
    "other classes": (lambda s: s.update({"classifer.bias": torch.ones(10)}), r"classifer\.bias has shape \(10,\)"),
    "endless": (
        lambda s: s.update({"classifer.bias": torch.ones(1).expand(2**50)}),
        r"classifer\.bias has shape \(1125899906842624,\)",
    ),
    "nan": (
        lambda s: s.update({BIAS: torch.where(torch.arange(980).view(49, 20) == 979, torch.nan, s[BIAS])}),
        f"{BIAS} holds NaN or infinite",
    ),
    "infinite": (lambda s: s.update({"classifer.bias": torch.full((1000,), -torch.inf)}), r"classifer\.bias holds NaN"),
    "beyond float32": (
        lambda s: s.update({"classifer.bias": torch.full((1000,), 1e300, dtype=torch.float64)}),
        r"classifer\.bias holds NaN or infinite numbers",
    ),
    "negative variance": (
        lambda s: s.update({"first_conv_bn.running_var": torch.full((24,), -1e-3)}),
        r"first_conv_bn\.running_var holds a negative variance",
    ),
    "whole numbers": (
        lambda s: s.update({"classifer.bias": torch.ones(1000, dtype=torch.int32)}),
        r"classifer\.bias is torch\.int32, not floating-point",
    ),
    "index of fractions": (lambda s: s.update({INDEX: s[INDEX].float()}), f"{INDEX} is torch.float32, not whole"),
    "no tensor": (lambda s: s.update({"classifer.bias": [1.0]}), r"state_dict has 'classifer\.bias', no plain tensor"),
    "sparse": (
        lambda s: s.update({"classifer.bias": torch.ones(1000).to_sparse()}),
        r"state_dict has 'classifer\.bias', no plain tensor",
    ),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", SPOILED)
def test_what_does_not_fit_is_refused_by_name(name: str, tmp_path: Path) -> None:
    spoil, message = SPOILED[name]
    state = _state()
    spoil(state)
    _refused(_file(tmp_path / "spoiled", state_dict=state), message)


@pytest.mark.parametrize("fraction", [0, 1e-4, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["pth", "legacy", "safetensors"])
def test_truncated_files_are_refused(kind: str, fraction: float, tmp_path: Path) -> None:
    content = {"first_conv.weight": torch.rand(24, 3, 3, 3), "classifer.bias": torch.rand(1000)}
    if kind == "safetensors":
        save_file(content, tmp_path / "whole")
    else:
        torch.save(content, tmp_path / "whole", _use_new_zipfile_serialization=kind == "pth")
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "part").write_bytes(data[: int(fraction * len(data))])
    _refused(tmp_path / "part", r"is not a whole (safetensors file|file of torch\.save)")


def test_damaged_compressed_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = _file(tmp_path / "whole", state_dict={"x": torch.arange(1000.0)})
    data = bytearray(whole.read_bytes())
    at = data.index(torch.arange(1000.0).numpy().tobytes())
    data[at + 2000] ^= 1
    (tmp_path / "flipped").write_bytes(data)
    _refused(tmp_path / "flipped", "is damaged: its record '.*data/0'")
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.namelist():
            target.writestr(item, source.read(item))
    _refused(tmp_path / "zip", "is damaged: its record")
    (tmp_path / "text").write_text("<html>Google Drive - Virus scan warning</html>")
    _refused(tmp_path / "text", "is not a whole file of torch.save")
    _refused(_file(tmp_path / "other", a=1), "the file has 'a', no plain tensor")
    _refused(tmp_path / "none", "no checkpoint")
    torch.save([1], tmp_path / "list")
    _refused(tmp_path / "list", "holds a list, not a dict of weights")


class _Code:
    """Pickled, it names a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_never_runs(zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"state_dict": _state(), "extras": _Code(mark)}, tmp_path / "bad", _use_new_zipfile_serialization=zipped)
    _refused(tmp_path / "bad", r"names (posix|nt)\.mkdir\. Nothing was run\. .* take the weights out in a sandbox")
    assert not mark.exists()
    torch.load(tmp_path / "bad", weights_only=False)
    assert mark.exists()  # the file would have done it


@pytest.mark.medium
def test_what_training_scripts_leave_in_a_file_is_passed_over(tmp_path: Path) -> None:
    extras = {"best": np.float32(0.5), "n": np.int64(3), "order": np.dtype(">f8").type(2), "yes": np.bool_(True)}
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(1)
    optimizer.step()
    bank = [[[[128, [16, 24]], -6.9]], []]
    file = _file(
        tmp_path / "c",
        state_dict={"x": weight},
        args=argparse.Namespace(lr=1e-3, folder="/data"),
        extras=extras,
        optimizer=optimizer.state_dict(),
        bank=bank,
        epoch=3,
    )
    checkpoint = read_checkpoint(file)
    assert checkpoint.epoch == 3 and checkpoint.sets[Weights.MODEL]["x"].item() < 0
    # A structured or object dtype would read memory that is not its own.
    for odd in (np.array([(1, None)], "i4,O")[0], np.datetime64("2020-01-01")):
        _refused(_file(tmp_path / "odd", state_dict={"x": weight}, extras=odd), "is not a whole file|cannot be read")


@pytest.mark.medium
def test_a_stored_index_moves_rows_by_offset() -> None:
    state = _state()
    state[BIAS] = torch.arange(49.0)[:, None].expand(49, 20)
    shifted = averaged(position_index(4))
    state[INDEX] = torch.from_numpy(shifted)
    name = "vit.3.attention.0.position_bias"
    plain, _ = convert(state)
    assert plain.net.state_dict()[name].flatten(1)[3].tolist() == list(range(49))
    moved, differs = convert(state, Index.STORED)
    assert differs[INDEX] == 49
    table = moved.net.state_dict()[name]
    # What the authors look up for every query and key, against what ours holds at their offset.
    assert torch.equal(table.flatten(1)[0][torch.from_numpy(position_index(4))], state[BIAS][shifted][..., 0])
    changed = [
        key for key, tensor in moved.net.state_dict().items() if not torch.equal(tensor, plain.net.state_dict()[key])
    ]
    assert changed == [name]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("at", "row", "message"),
    [((5, 9), 20, "maps one offset to two rows: offset"), ((0, 0), 49, "outside its table"), ((0, 0), -1, "outside")],
)
def test_a_stored_index_that_no_table_equals_is_refused(at: tuple[int, int], row: int, message: str) -> None:
    state = _state()
    state[INDEX] = state[INDEX].clone()
    state[INDEX][at] = row
    convert(state)  # not used, so no matter
    with pytest.raises(SupernetFileError, match=f"{INDEX} .*{message}"):
        convert(state, Index.STORED)


def test_the_checkpoint_itself_is_never_overwritten(tmp_path: Path) -> None:
    file = _file(tmp_path / "c", state_dict=_state())
    data = file.read_bytes()
    with pytest.raises(SupernetFileError, match="is the checkpoint itself"):
        import_checkpoint(file, tmp_path / "." / "c")
    assert file.read_bytes() == data
