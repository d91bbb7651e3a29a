"""Averaged weights: the formula, and what is not averaged."""

import pytest
import torch
from torch import nn

from elasticvit.training.ema import Ema


class Counted(nn.Module):
    """A weight, a running statistic and an index, as networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.register_buffer("running", torch.tensor([2.0]))
        self.register_buffer("index", torch.tensor([3, 6, 12, 15]))


def test_floats_are_averaged_and_integers_are_not() -> None:
    model = Counted()
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(11.0)
        model.get_buffer("running").fill_(12.0)
        model.get_buffer("index").add_(1)
    ema.update(model)
    assert ema.average["weight"].item() == pytest.approx(0.9 * 1 + 0.1 * 11)
    assert ema.average["running"].item() == pytest.approx(0.9 * 2 + 0.1 * 12)
    assert ema.average["index"].tolist() == [4, 7, 13, 16] and ema.average["index"].dtype == torch.int64
    assert model.weight.item() == 11.0


def test_indices_survive_any_number_of_updates() -> None:
    """Averaged by way of floats these become 2, 5, 11 and 14: the fault of the authors' checkpoints."""
    model = Counted()
    ema = Ema(model, 0.99985)
    for _ in range(100):
        ema.update(model)
    assert ema.average["index"].tolist() == [3, 6, 12, 15]
    assert ema.average["weight"].item() == 1.0


def test_an_average_goes_on_where_it_was_saved() -> None:
    model = Counted()
    ema, again = Ema(model, 0.9), Ema(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(5.0)
    ema.update(model)
    again.load_state_dict(ema.state_dict())
    ema.update(model)
    again.update(model)
    assert torch.equal(ema.average["weight"], again.average["weight"])
    with pytest.raises(KeyError):
        again.load_state_dict({})
