"""The training loop: what it learns, that it can be continued exactly, and what it refuses."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from elasticvit.archs.space import small
from elasticvit.data.image_set import Split, digits
from elasticvit.errors import DataError, StoppedError
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.progress import Step
from elasticvit.training.augment.augment import Augment
from elasticvit.training.batches import Part, make_part, rows_of, steps_per_epoch
from elasticvit.training.checkpoints import CheckpointError, UnusableCheckpointError
from elasticvit.training.distributed import World
from elasticvit.training.logs import Record, Unlogged
from elasticvit.training.loop import fresh_supernet, train, train_plain
from elasticvit.training.losses import Loss
from elasticvit.training.sampling import Choice, Sampling
from elasticvit.training.step import TrainingStep
from tests.elasticvit.training.one_process import whole_recipe
from tests.elasticvit.training.tiny_training import tiny_recipe, tiny_space


def _same(a: SuperNet, b: SuperNet) -> bool:
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def _after(steps: int) -> Callable[[], bool]:
    """A request to stop after a number of steps."""
    left = iter(range(steps - 1, -1, -1))
    return lambda: next(left) == 0


@pytest.mark.medium
def test_a_run_follows_from_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = train(tiny_recipe(steps=3), digits())
    torch.manual_seed(2)
    torch.rand(7)
    assert _same(first, train(tiny_recipe(steps=3), digits()))
    assert not _same(first, train(tiny_recipe(steps=3, seed=1), digits()))
    assert not first.training


@pytest.mark.medium
def test_training_leaves_global_settings_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    train(tiny_recipe(steps=1), digits())
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


@pytest.mark.medium
def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    seen: list[Step] = []
    done = train(tiny_recipe(steps=2), digits(), checkpoint=checkpoint)
    assert _same(done, train(tiny_recipe(steps=2), digits(), checkpoint=checkpoint, report=seen.append))
    assert not seen


@pytest.mark.medium
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    train(tiny_recipe(steps=1), digits(), checkpoint=checkpoint)
    with pytest.raises(UnusableCheckpointError, match="another training recipe; delete it"):
        train(tiny_recipe(steps=1, lr=1e-3), digits(), checkpoint=checkpoint)


@pytest.mark.medium
@pytest.mark.parametrize("keep", [0, 10, 5000, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    train(tiny_recipe(steps=1), digits(), checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(UnusableCheckpointError, match="damaged"):
        train(tiny_recipe(steps=1), digits(), checkpoint=checkpoint)


@pytest.mark.medium
def test_a_checkpoint_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        train(tiny_recipe(steps=1), digits(), checkpoint=tmp_path / "file" / "run.checkpoint")


@pytest.mark.medium
def test_a_short_run_overfits_its_images() -> None:
    """Twenty images, the same every step: without learning the loss stays at log 10 = 2.3, and answers are guesses."""
    data = digits()
    few = replace(data, train=Split(data.train.images[:20], data.train.labels[:20]))
    recipe = tiny_recipe(
        steps=60,
        batch=20,
        lr=5e-3,
        weight_decay=0.0,
        loss=Loss(smoothing=0.0),
        augment=Augment(),
        sampling=Sampling(subnets=1, levels=1, include=()),
    )
    losses: list[float] = []
    supernet = train(recipe, few, report=lambda step: losses.append(step.loss or 0))
    assert losses[0] == pytest.approx(log(10), abs=0.1) and np.mean(losses[-5:]) < 0.7
    net = supernet.extract(tiny_space().largest()).train()
    answers = net(few.scaled(few.train.images)).argmax(1)
    assert (answers == few.train.labels).float().mean() > 0.7


@pytest.mark.medium
def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(DataError, match="lower learning rate"):
        train(tiny_recipe(lr=1e30, weight_decay=1.0), digits())


@pytest.mark.medium
def test_a_gradient_that_is_no_number_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Its loss may well be one, so that weights would be lost without a word."""
    checkpoint, recipe = tmp_path / "run.checkpoint", tiny_recipe(save_every=1, steps=5)
    calls = iter(range(100))

    def poisoned(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if next(calls) == 3:
            optimizer.param_groups[0]["params"][0].grad[0] = float("inf")

    with pytest.MonkeyPatch.context() as patch:
        # Where gradients are taken over from half precision; without any it does nothing.
        patch.setattr(torch.amp.GradScaler, "unscale_", lambda _self, optimizer: poisoned(optimizer))
        with pytest.raises(DataError, match="gradients at step 4 are no numbers"):
            train(recipe, digits(), checkpoint=checkpoint)
    assert torch.load(checkpoint)["step"] == 3
    whole, resumed = train(recipe, digits()), train(recipe, digits(), checkpoint=checkpoint)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected:UserWarning")
def test_a_compiled_step_teaches_the_same() -> None:
    """By torch's tracer, whose graphs are run as they are: a compiler would take minutes."""
    recipe = tiny_recipe(steps=1, warmup=0, sampling=Sampling(strategy="fixed", archs=(tiny_space().smallest(),)))
    plain, start = train(recipe, digits()), fresh_supernet(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
        traced = train(replace(recipe, compile=True), digits())
    weight, same, before = (net.get_parameter("net.head.classify.weight") for net in (plain, traced, start))
    assert torch.allclose(weight, same, atol=1e-5)
    assert not torch.allclose(weight, before, atol=1e-4)


def test_data_of_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match="10 classes, the space 7"):
        train(tiny_recipe(space=tiny_space(7)), digits())


@pytest.mark.medium
def test_the_last_loss_reported_is_of_the_last_sub_network_and_logs_have_all() -> None:
    reported: list[Step] = []
    logged: list[Record] = []

    class Kept(Unlogged):
        def __call__(self, record: Record) -> None:
            logged.append(record)

    train(tiny_recipe(steps=2), digits(), report=reported.append, logs=Kept())
    assert [record.step for record in logged] == [1, 2]
    assert [set(record.losses) for record in logged] == [{"uniform", "smallest"}] * 2
    assert [record.losses["smallest"] for record in logged] == [step.loss for step in reported]
    assert [record.lr for record in logged] == [1e-3, 2e-3]
    assert all(record.gradient_norm > 0 and record.images_per_s > 0 and 0 <= record.level < 3 for record in logged)


@pytest.mark.medium
def test_a_run_starts_from_given_weights_and_leaves_them_alone() -> None:
    given = train(tiny_recipe(steps=2), digits())
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    # At a learning rate of zero what comes out is what went in.
    out = train(tiny_recipe(steps=1, lr=0.0), digits(), start=given)
    assert all(torch.equal(p, dict(given.named_parameters())[n]) for n, p in out.named_parameters())
    train(tiny_recipe(steps=1), digits(), start=given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())
    with pytest.raises(DataError, match="not of the recipe's"):
        train(tiny_recipe(), digits(), start=SuperNet(small(10)))


@pytest.mark.medium
def test_a_plain_network_is_trained_by_the_same_recipe(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(tiny_space().smallest())
    before = net.get_parameter("head.classify.weight").clone()
    whole = train_plain(copy.deepcopy(net), tiny_recipe(), digits())
    assert not whole.training and not torch.equal(whole.get_parameter("head.classify.weight"), before)
    checkpoint = tmp_path / "net.checkpoint"
    with pytest.raises(StoppedError):
        train_plain(copy.deepcopy(net), tiny_recipe(), digits(), checkpoint=checkpoint, stop=_after(3))
    resumed = train_plain(copy.deepcopy(net), tiny_recipe(), digits(), checkpoint=checkpoint)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())
    with pytest.raises(DataError, match="10 classes, the network 7"):
        train_plain(Net(tiny_space(7).smallest()), tiny_recipe(), digits())


@pytest.mark.medium
def test_a_plain_network_learns_what_a_supernet_of_it_alone_does() -> None:
    """One architecture, always: the supernet is then a plain network in other clothes."""
    arch = tiny_space().largest()
    sampling = Sampling(strategy="fixed", archs=(arch,))
    start = fresh_supernet(tiny_recipe())
    plain = train_plain(start.extract(arch), tiny_recipe(), digits())
    shared = train(tiny_recipe(sampling=sampling), digits(), start=start).extract(arch)
    assert all(torch.allclose(t, shared.state_dict()[name], atol=1e-5) for name, t in plain.state_dict().items())


@pytest.mark.medium
def test_half_precision_is_close_and_not_the_same() -> None:
    losses: dict[str, list[float]] = {}
    for precision in ("float32", "bfloat16"):
        steps: list[Step] = []
        train(tiny_recipe(steps=2, precision=precision), digits(), report=steps.append)
        losses[precision] = [step.loss or 0 for step in steps]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.02)
    with pytest.raises(DataError, match="float16 needs an accelerator"):
        train(tiny_recipe(precision="float16"), digits(), world=World())


def test_scores_look_at_images_as_they_were_and_change_nothing() -> None:
    recipe = whole_recipe(batch=32)
    supernet = fresh_supernet(recipe).train()
    part = make_part(recipe, digits(), 0, 0, 1)
    training_step, arch = TrainingStep(supernet, recipe, (), supernet), tiny_space().largest()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    score = training_step.score(arch, part).item()
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    with torch.no_grad():
        assert score == pytest.approx(-cross_entropy(supernet(part.images, arch), part.labels).item())
    # Mixed images and soft targets are for learning only.
    mixed = Part(part.images, part.labels, torch.zeros_like(part.images), torch.zeros_like(part.targets))
    marks = training_step.learn(Choice(0, (arch,), ("uniform",), (True,)), mixed, lambda loss: loss)
    assert marks[1, 0].item() == pytest.approx(score) and marks[0, 0].item() == 0


@pytest.mark.medium
def test_teachers_from_outside_are_listened_to() -> None:
    def wise(images: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.int64), 10) * 20.0

    recipe = tiny_recipe(steps=30, lr=5e-3, loss=Loss(distil=1.0), sampling=Sampling(subnets=1, levels=1))
    supernet = train(recipe, digits(), teachers=[wise, wise])
    # Whatever the image, they say 0.
    net = supernet.extract(tiny_space().largest()).train()
    assert (net(digits().scaled(digits().train.images[:64])).argmax(1) == 0).float().mean() > 0.9


def test_every_epoch_sees_every_image_once_in_another_order() -> None:
    recipe, data = tiny_recipe(batch=100), digits()
    per_epoch = steps_per_epoch(recipe, data)
    assert per_epoch == len(data.train) // 100
    first, second = (
        torch.cat([rows_of(recipe, data, epoch * per_epoch + i) for i in range(per_epoch)]) for epoch in range(2)
    )
    assert len(set(first.tolist())) == len(first) == len(second) == len(set(second.tolist())) == per_epoch * 100
    assert not torch.equal(first, second) and not torch.equal(first, first.sort().values)
    assert torch.equal(first[:100], rows_of(recipe, data, 0))


def test_random_numbers_of_a_step_do_not_depend_on_other_steps() -> None:
    again, other = (make_part(tiny_recipe(), digits(), step, 0, 1) for step in (5, 6))
    here = make_part(tiny_recipe(), digits(), 5, 0, 1)
    assert torch.equal(here.images, again.images) and torch.equal(here.labels, again.labels)
    assert not torch.equal(here.images, other.images)
    # An image's own change, not only its place: the same rows unaugmented differ.
    plain = make_part(tiny_recipe(augment=Augment()), digits(), 5, 0, 1)
    assert torch.equal(plain.labels, here.labels) and not torch.equal(plain.images, here.images)
