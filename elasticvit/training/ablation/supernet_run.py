"""One supernet: trained, then measured at every level."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from elasticvit.accuracy.evaluate import RECALIBRATION_IMAGES, evaluate, recalibrate
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Codes, Space
from elasticvit.costs.band_sampler import BandSampler
from elasticvit.costs.flops import paper_mflops
from elasticvit.costs.levels import Floors, floor_by_key
from elasticvit.data.image_set import ImageSet, Split
from elasticvit.errors import StoppedError
from elasticvit.nn.device import best_device
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.progress import Report, Step, Stop
from elasticvit.training.ablation.curve import train_to, way_points
from elasticvit.training.ablation.files import RunFiles
from elasticvit.training.ablation.gradients import Gradients, Matrix, mean_of_pairs, similarities
from elasticvit.training.ablation.plan import Config, Plan
from elasticvit.training.ablation.records import Level, Milestone, Pairs, Point, Similarity, SupernetRun
from elasticvit.training.ablation.work import Spent, spent
from elasticvit.training.loop import train
from elasticvit.training.losses import Teacher

TOGETHER = 128
"""Images that are evaluated together; networks this small are slow by their number of calls."""


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Recalibrates networks on the first training images and counts their right answers, on the best device."""

    data: ImageSet
    device: torch.device

    @classmethod
    def of(cls, data: ImageSet) -> "Evaluator":
        return cls(data, best_device())

    def ready(self, net: Net) -> Net:
        """The network on the device, recalibrated."""
        images = self.data.scaled(self.data.train.images[:RECALIBRATION_IMAGES])
        return recalibrate(net.to(self.device), images.to(self.device))

    def top1(self, net: Net, split: Split) -> float:
        images, labels = self.data.scaled(split.images).to(self.device), split.labels.to(self.device)
        return evaluate(net, images, labels, TOGETHER)

    def inherited(self, supernet: SuperNet, arch: Arch, split: Split) -> float:
        """Top-1 of a sub-network with the supernet's weights."""
        return self.top1(self.ready(supernet.extract(arch)), split)


@dataclass(frozen=True)
class Measured:
    """Top-1 of a supernet's sub-networks: by level, and on `val` of both ends of its space; and how long that took."""

    levels: tuple[Level, ...]
    smallest: float
    largest: float
    seconds: float

    def milestone(self, spent: Spent) -> Milestone:
        points = tuple(Point(level.target, level.search, level.val) for level in self.levels)
        return Milestone(
            spent.step,
            spent.macs,
            spent.seconds,
            spent.core_seconds,
            self.seconds,
            points,
            self.smallest,
            self.largest,
        )


def run_supernet(
    plan: Plan,
    config: Config,
    seed: int,
    floors: Floors,
    data: ImageSet,
    teachers: Sequence[Teacher],
    files: RunFiles,
    report: Report,
    stop: Stop,
) -> SupernetRun:
    """Train and measure one supernet; a stopped one resumes from its checkpoint. Raises what `train` does."""
    began = time.perf_counter()
    recipe = plan.recipe(config, floors, seed, len(data.train))
    measure = partial(_measure, plan, floors, seed, Evaluator.of(data), report, stop)
    if not plan.curve:
        supernet = train(recipe, data, checkpoint=files.checkpoint, report=report, stop=stop, teachers=teachers)
        done = measure(supernet)
        similar, pairs = compare_gradients(plan, supernet, done.levels, data, seed)
        seconds = time.perf_counter() - began
        return SupernetRun(config, seed, done.levels, done.smallest, done.largest, similar, pairs, seconds)
    curve = way_points(
        plan.way_points,
        recipe,
        data,
        teachers,
        files,
        report,
        stop,
        lambda supernet, work: measure(supernet).milestone(work),
    )
    supernet = train_to(plan.steps, recipe, data, teachers, files, report, stop)
    began, work, done = time.perf_counter(), spent(files.work), measure(supernet)
    curve = (*curve, done.milestone(work))
    similar, pairs = compare_gradients(plan, supernet, done.levels, data, seed)
    seconds = work.seconds + sum(row.evaluation_s for row in curve[:-1]) + time.perf_counter() - began
    return SupernetRun(
        config, seed, done.levels, done.smallest, done.largest, similar, pairs, seconds, curve, device_name()
    )


def device_name() -> str:
    """The name of the GPU, or the CPU's architecture and number of cores."""
    if best_device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def _measure(
    plan: Plan, floors: Floors, seed: int, evaluator: Evaluator, report: Report, stop: Stop, supernet: SuperNet
) -> Measured:
    """Raises `StoppedError` between levels where `stop` says so."""
    began, levels = time.perf_counter(), list[Level]()
    for i, target in enumerate(plan.levels):
        if stop():
            raise StoppedError("stopped while measuring")
        levels.append(_level(evaluator, supernet, target, candidates(plan, floors, target, seed)))
        report(Step("evaluate", i + 1, len(plan.levels)))
    smallest, largest = (
        evaluator.inherited(supernet, arch, evaluator.data.val)
        for arch in (plan.space.smallest(), plan.space.largest())
    )
    return Measured(tuple(levels), smallest, largest, time.perf_counter() - began)


def candidates(plan: Plan, floors: Floors, target: float, seed: int) -> Codes:
    """The sub-networks of a level that are compared, (2 · candidates, D): drawn from all of it, then above its floor.

    They follow from level and seed, so that all configurations are asked for the same ones.
    """
    rng, high = np.random.default_rng((seed, 4, round(target * 1000))), target + plan.band
    every = BandSampler(plan.space, "paper_mflops", low=target, high=high)
    above = BandSampler(plan.space, "paper_mflops", floor_by_key(floors, target, plan.band), low=target, high=high)
    return np.concatenate([draws.sample(rng, plan.candidates) for draws in (every, above)])


def _level(evaluator: Evaluator, supernet: SuperNet, target: float, codes: Codes) -> Level:
    archs = [supernet.space.decode(code) for code in codes]
    search = [evaluator.inherited(supernet, arch, evaluator.data.search) for arch in archs]
    best = int(np.argmax(search))
    val = evaluator.inherited(supernet, archs[best], evaluator.data.val)
    return Level(target, tuple(tuple(map(int, code)) for code in codes), tuple(search), best, val)


def compare_gradients(
    plan: Plan, supernet: SuperNet, levels: Sequence[Level], data: ImageSet, seed: int
) -> tuple[tuple[Similarity, ...], Pairs]:
    """Similarities within levels, and between sub-networks of all levels, on one batch that follows from the seed."""
    device, space = best_device(), supernet.space
    rows = torch.from_numpy(np.random.default_rng((seed, 5)).permutation(len(data.train))[: plan.gradient_batch])
    images, labels = data.scaled(data.train.images[rows]).to(device), data.train.labels[rows].to(device)
    gradients = Gradients(supernet.to(device), images, labels)

    def cosines(codes: Sequence[Sequence[int]]) -> Matrix:
        return similarities([gradients.of(decoded(space, code)) for code in codes])

    similar = []
    for level in levels:
        if level.target in plan.similar:
            matrix, ranks = cosines(level.candidates), np.argsort(-np.array(level.search), kind="stable")
            every = range(len(level.candidates))
            good = ranks[: plan.good].tolist()
            similar.append(Similarity(level.target, mean_of_pairs(matrix, every), mean_of_pairs(matrix, good)))
    spread = [code for level in levels for code in level.candidates[: plan.spread]]
    matrix = cosines(spread)
    costs = tuple(paper_mflops(decoded(space, code)) for code in spread)
    pairs = Pairs(costs, tuple(map(float, matrix[np.triu_indices(len(spread), 1)])))
    supernet.cpu()
    return tuple(similar), pairs


def decoded(space: Space, code: Sequence[int]) -> Arch:
    return space.decode(code)
