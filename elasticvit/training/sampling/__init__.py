"""Sub-networks of a training step: sandwich, adjacent step, hierarchical smallest, memory bank, path preference.

    sampler = Sampler(space, sampling)
    state = sampler.start()
    choice = sampler.step(state, rng, epoch)      # moves the level
    ...train choice.archs...
    sampler.observe(state, choice, scores)        # only if sampling.bank is set

No torch; all randomness comes from the generator argument, all memory is in the state.
"""

from elasticvit.costs.levels import PAPER_FLOORS, PAPER_LEVELS
from elasticvit.training.sampling.settings import (
    Bank,
    Preference,
    Sampling,
    SamplingError,
    paper_sampling,
)
from elasticvit.training.sampling.state import Choice, Entry, SamplerState
from elasticvit.training.sampling.strategies import Sampler

__all__ = [
    "PAPER_FLOORS",
    "PAPER_LEVELS",
    "Bank",
    "Choice",
    "Entry",
    "Preference",
    "Sampler",
    "SamplerState",
    "Sampling",
    "SamplingError",
    "paper_sampling",
]
