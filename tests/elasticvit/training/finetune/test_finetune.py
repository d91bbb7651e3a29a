"""The command `finetune`: a supernet or one network for a user's own folder, served like any other."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from elasticvit import load_supernet
from elasticvit.accuracy.evaluate import accuracy_of
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.accuracy.value import Accuracy
from elasticvit.cli.app import app
from elasticvit.data.image_set import load_named
from elasticvit.errors import DataError, StoppedError, SupernetFileError
from elasticvit.progress import silent
from elasticvit.training.checkpoints import UnusableCheckpointError
from elasticvit.training.finetune.run import Options, Run, finetune
from elasticvit.training.snapshot import snapshot
from elasticvit.training.teachers import load_teacher
from server.clock import utc_now
from server.compute.exporting.loaded_supernet import LoadedSupernet
from server.compute.supernet_cache import SupernetCache
from server.compute.task import Compute
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs
from server.supervise import bootstrap
from tests.elasticvit.training.finetune.finetune_images import COLOURS, colour_folder, tiny_base
from tests.elasticvit.training.tiny_training import tiny_space

CLASSES = tuple(sorted(COLOURS))
STEPS, EVALUATED = 30, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_folder(tmp_path_factory.mktemp("images") / "colours")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base.safetensors", mean=0.4)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELASTICVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _run(base: Path, folder: Path, out: Path, stop: Callable[[], bool] = lambda: False, **options: object) -> Run:
    """What `finetune` makes of its arguments, with somebody else to stop it."""
    loaded, sha256 = load_supernet(base), hashlib.sha256(base.read_bytes()).hexdigest()
    chosen = Options(steps=2, evaluated=0, **options)  # type: ignore[arg-type]
    return Run(loaded, sha256, load_named(f"{folder}@32"), out, chosen, silent, stop)


@pytest.fixture(scope="module")
def tuned(base: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The supernet in a home folder, by the command itself."""
    home = tmp_path_factory.mktemp("home")
    out = Settings(home=home).supernets_folder / "colours.safetensors"
    command = ["finetune", str(folder), "--supernet", str(base), "--out", str(out), "--lr", "8e-3"]
    done = CliRunner().invoke(app, [*command, "--steps", str(STEPS), "--evaluated", str(EVALUATED)])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["file"] == str(out)
    assert (summary["classes"], summary["train_images"], summary["search_images"]) == (3, 72, 9)
    assert summary["networks"]["largest"]["search"] > 0.6
    assert "9 held-out images only" in done.stderr and "accuracies are reported from 9 images only" in done.stderr
    largest = summary["networks"]["largest"]
    assert largest["val_lower"] < largest["val"] <= largest["val_upper"]
    return out


@pytest.mark.medium
def test_the_supernet_has_the_users_classes_and_its_provenance(tuned: Path, base: Path, folder: Path) -> None:
    card = load_supernet(tuned).card
    assert (card.name, card.class_names, card.data) == ("colours", CLASSES, f"{folder}@32")
    assert card.terms == "For research only." and card.mean == (0.4, 0.4, 0.4)
    assert card.provenance["base"]["sha256"] == hashlib.sha256(base.read_bytes()).hexdigest()
    assert card.provenance["recipe"]["steps"] == STEPS
    hidden = {path.name for path in tuned.parent.iterdir()} - {"colours.train.jsonl"}
    assert hidden == {"colours.safetensors", "colours.accuracy.jsonl"}


@pytest.mark.medium
def test_its_table_holds_what_its_networks_do_on_its_own_data(tuned: Path) -> None:
    supernet, table = load_supernet(tuned), AccuracyTable.load(tuned.with_suffix(".accuracy.jsonl"))
    assert (table.space, table.images, len(table.top1)) == (tiny_space(3), 9, EVALUATED)
    for at in (0, -1):
        arch = table.space.decode(table.codes[at])
        data = load_named(supernet.card.data)
        assert accuracy_of(supernet, arch, data, "search").value == table.top1[at]
        reported = accuracy_of(supernet, arch, data)
        assert (reported.value, reported.images, reported.independent) == (table.val[at], table.val_images, True)


@pytest.mark.medium
def test_a_server_knows_it_and_predicts_its_networks(tuned: Path) -> None:
    settings = Settings(home=tuned.parent.parent)
    assert settings.supernets_folder == tuned.parent
    database = prepare(settings)
    bootstrap.register_supernet(database, tuned, utc_now)
    served_supernet = SupernetCache(Compute(settings, database, Blobs(settings.blobs_folder), utc_now)).get("colours")
    codes = served_supernet.space.sample(np.random.default_rng(0), 5)
    assert served_supernet.accuracy.predict(codes).shape == (5,)
    images = LoadedSupernet.load(served_supernet.ref).weights.images
    assert images is not None and images.class_names == CLASSES
    database.close()


@pytest.mark.medium
def test_one_of_its_networks_is_exported(tuned: Path, tmp_path: Path) -> None:
    command = ["export", "--supernet", str(tuned), "--arch", "smallest", "--out", str(tmp_path / "a.tflite")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "a.tflite.manifest.json").read_text())
    assert tuple(manifest["output"]["names"]) == CLASSES and manifest["terms"] == "For research only."
    assert manifest["input"]["mean"] == [0.4, 0.4, 0.4]


@pytest.mark.medium
def test_images_travel_with_the_file_unless_they_are_left_out(
    tuned: Path, base: Path, folder: Path, tmp_path: Path
) -> None:
    carried = load_supernet(tuned).calibration
    assert carried is not None and torch.equal(carried, load_named(f"{folder}@32").train.images)
    without = _run(base, folder, tmp_path / "mine.safetensors", carry_images=False)
    without.whole()
    assert load_supernet(without.out).calibration is None


@pytest.mark.medium
def test_one_network_alone_becomes_a_model(base: Path, folder: Path, tmp_path: Path) -> None:
    arch, out = tiny_space().smallest(), tmp_path / "mine.tflite"
    done = finetune(f"{folder}@16", base, out, arch=arch, options=Options(steps=STEPS, lr=8e-3))
    (measured,) = done.networks.values()
    manifest = json.loads((tmp_path / "mine.tflite.manifest.json").read_text())
    assert tuple(manifest["output"]["names"]) == CLASSES and manifest["arch_id"] in done.networks
    reported = Accuracy.measured(measured.val, done.val_images, independent=True)
    assert manifest["accuracy"] == asdict(reported) and measured.val > 0.6
    assert hashlib.sha256(out.read_bytes()).hexdigest() == manifest["sha256"]
    beside = {f"{out.name}.manifest.json", f"{out.name}.card.md"}
    assert {path.name for path in tmp_path.iterdir()} == {out.name, *beside, "mine.train.jsonl"}


@pytest.mark.medium
def test_one_network_alone_becomes_weights(base: Path, folder: Path, tmp_path: Path) -> None:
    run = _run(base, folder, tmp_path / "mine.safetensors")
    run.single(tiny_space().smallest())
    with safe_open(run.out, "pt") as file:
        assert file.metadata()["format"] == "elasticvit-net/1"
        assert file.get_tensor("head.classify.weight").shape == (3, tiny_space().hidden)


@pytest.mark.medium
@pytest.mark.parametrize("single", [False, True])
def test_a_stopped_run_goes_on_to_the_same_bytes(base: Path, folder: Path, tmp_path: Path, single: bool) -> None:
    def go(out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        run = _run(base, folder, out, stop)
        run.single(tiny_space().smallest()) if single else run.whole()

    (tmp_path / "b").mkdir()
    there, here = tmp_path / "mine.safetensors", tmp_path / "b" / "mine.safetensors"
    go(there)
    with pytest.raises(StoppedError, match="after step 1 of 2"):
        go(here, lambda: True)
    assert not here.exists()
    go(here)
    assert here.read_bytes() == there.read_bytes()
    assert not here.with_name(".mine.safetensors.checkpoint").exists()


@pytest.mark.medium
def test_a_checkpoint_is_not_continued_from_another_base(base: Path, folder: Path, tmp_path: Path) -> None:
    other = tiny_base(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(StoppedError):
        _run(base, folder, tmp_path / "mine.safetensors", lambda: True).whole()
    with pytest.raises(UnusableCheckpointError, match="another training recipe"):
        _run(other, folder, tmp_path / "mine.safetensors").whole()


@pytest.mark.medium
@pytest.mark.parametrize("single", [False, True])
def test_a_checkpoint_is_not_continued_with_other_class_names_or_images(
    base: Path, tmp_path: Path, single: bool
) -> None:
    photos, out = colour_folder(tmp_path / "photos", images=12), tmp_path / "mine.safetensors"

    def go(stop: Callable[[], bool] = lambda: False) -> None:
        run = _run(base, photos, out, stop)
        run.single(tiny_space().smallest()) if single else run.whole()

    with pytest.raises(StoppedError):
        go(lambda: True)
    (photos / "sky").rename(photos / "azure")  # now the first class, of as many
    with pytest.raises(UnusableCheckpointError, match=r'other classes .*\["leaf", "rust", "sky"\], now \["azure"'):
        go()
    (photos / "azure").rename(photos / "swap")
    (photos / "leaf").rename(photos / "sky")
    (photos / "swap").rename(photos / "leaf")  # the same names, for each other's images
    with pytest.raises(UnusableCheckpointError, match="trained on other images"):
        go()
    assert not out.exists()


@pytest.mark.medium
def test_a_checkpoint_of_an_earlier_version_has_the_class_names_of_its_card(base: Path, tmp_path: Path) -> None:
    photos, out = colour_folder(tmp_path / "photos", images=12), tmp_path / "mine.safetensors"
    with pytest.raises(StoppedError):
        _run(base, photos, out, lambda: True).whole()
    checkpoint = out.with_name(".mine.safetensors.checkpoint")
    content = torch.load(checkpoint, weights_only=True)
    del content["images"]
    torch.save(content, checkpoint)
    (photos / "sky").rename(photos / "azure")
    with pytest.raises(UnusableCheckpointError, match="other classes"):
        _run(base, photos, out).whole()
    (photos / "azure").rename(photos / "sky")
    _run(base, photos, out).whole()
    assert load_supernet(out).card.class_names == CLASSES


@pytest.mark.medium
def test_accuracy_is_not_measured_with_labels_of_other_classes(base: Path, tmp_path: Path) -> None:
    photos, out = colour_folder(tmp_path / "photos", images=12), tmp_path / "mine.safetensors"
    _run(base, photos, out).whole()
    supernet = load_supernet(out)
    (photos / "sky").rename(photos / "azure")
    with pytest.raises(DataError, match=r"class 0 is 'azure' in .*, but 'leaf' in the supernet 'mine'"):
        accuracy_of(supernet, supernet.space.smallest(), load_named(supernet.card.data))
    with pytest.raises(DataError, match="class 0 is 'azure'"):
        load_teacher(out, load_named(supernet.card.data), torch.device("cpu"))


@pytest.mark.medium
def test_scratch_leaves_the_base_out(base: Path, folder: Path, tmp_path: Path) -> None:
    """The same from any base: only the classes and the space count."""
    other, outs = tiny_base(tmp_path / "other.safetensors", seed=1), [tmp_path / f"{i}.safetensors" for i in range(3)]
    _run(base, folder, outs[0], scratch=True, name="x").whole()
    _run(other, folder, outs[1], scratch=True, name="x").whole()
    _run(other, folder, outs[2], name="x").whole()
    first, second, third = (load_supernet(out).net.state_dict()["first_conv.conv.weight"] for out in outs)
    assert torch.equal(first, second) and not torch.allclose(first, third, atol=0.05)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("mine.tflite", Options(), "must end with .safetensors"),
        ("caf\udce9.safetensors", Options(), r"the name 'caf\\xe9\.safetensors' is not UTF-8"),
        ("mine.safetensors", Options(name="caf\udce9"), r"the name 'caf\\xe9' is not UTF-8"),
        ("mine.safetensors", Options(evaluated=1), "8 evaluated"),
        ("mine.safetensors", Options(lr=1e18, steps=5), "lower learning rate"),
    ],
)
def test_impossible_settings_are_refused(
    base: Path, folder: Path, tmp_path: Path, out: str, options: Options, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        finetune(str(folder), base, tmp_path / out, options=options)
    assert not (tmp_path / out).exists()


@pytest.mark.medium
def test_a_supernet_is_not_overwritten_by_its_own_child(base: Path, folder: Path) -> None:
    before = base.read_bytes()
    with pytest.raises(DataError, match="start from"):
        finetune(str(folder), base, base)
    assert base.read_bytes() == before


@pytest.mark.medium
def test_other_files_are_no_base(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SupernetFileError, match="not a whole safetensors file"):
        finetune(str(folder), tmp_path / "notes.txt", tmp_path / "mine.safetensors")


@pytest.mark.medium
def test_the_command_ends_with_a_sentence_for_names_that_are_not_utf8(base: Path, tmp_path: Path) -> None:
    photos = colour_folder(tmp_path / "caf\udce9", images=12)
    command = ["finetune", str(photos), "--supernet", str(base), "--out", str(tmp_path / "mine.safetensors")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "is not UTF-8" in done.stderr and not done.stdout


@pytest.mark.medium
def test_the_command_ends_with_a_sentence_for_a_folder_of_one_class(base: Path, tmp_path: Path) -> None:
    one = colour_folder(tmp_path / "one", images=12)
    for name in CLASSES[1:]:
        for path in (one / name).iterdir():
            path.unlink()
        (one / name).rmdir()
    command = ["finetune", str(one), "--supernet", str(base), "--out", str(tmp_path / "mine.safetensors")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "has 1 class" in done.stderr and not done.stdout


@pytest.mark.medium
def test_a_stopped_run_becomes_a_supernet_under_the_terms_of_its_base(base: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    with pytest.raises(StoppedError):
        _run(base, folder, out, stop=lambda: True).whole()
    assert snapshot(out, tmp_path / "half.safetensors") == 1
    card = load_supernet(tmp_path / "half.safetensors").card
    assert (card.terms, card.mean, card.class_names) == ("For research only.", (0.4, 0.4, 0.4), CLASSES)
