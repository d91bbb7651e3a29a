"""The only module that imports nn-Meter 2.0: its training function fits forests to block rows.

Workarounds, each covered by a contract test:

- nn-Meter imports `pkg_resources`, which setuptools 82 dropped: this project pins `setuptools<82`.
- Importing it writes a configuration to `~/.nn_meter` and reads a registry from there: it is imported with HOME set to
  an empty private folder, which is removed afterwards, so that neither its files nor a user's registry matter.
- It adds a handler that writes to stdout to its logger: the handler is removed.
- For unknown kernels it calls scikit-learn with `max_features="auto"`, removed in 1.3: every kind of block gets an
  entry in its `__PREDICTOR_ZOO__`.
- Registering a feature parser appends to `sys.path`: it is restored.
- Rows that raise are dropped silently: the number of rows that were used is checked.

Our kernels use nn-Meter's extension points: a kernel name for each kind of block, and a feature parser that adds the
work of a block to its sizes (nn-Meter's own features do not cover transformer blocks).
"""

import importlib
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.costs.blocks import Block, BlockKind
from elasticvit.errors import PredictorError
from elasticvit.latency.features import FEATURE_NAMES, features
from elasticvit.latency.rows import BlockRow

VERSION = "2.0"
BACKEND = "elasticvit"
# nn-Meter holds out a fifth of the rows to measure its accuracy; with fewer blocks neither that nor a forest is useful.
FEWEST_BLOCKS = 10
FOREST = {
    "n_estimators": 100,
    "max_depth": 50,
    "min_samples_leaf": 1,
    "min_samples_split": 2,
    "max_features": 1.0,
    "random_state": 10,
    "n_jobs": 1,
}
_BUILDER = "nn_meter.builder.kernel_predictor_builder.predictor_builder"
_import_lock = threading.Lock()

Baseline = Callable[[Sequence[Block]], NDArray[np.float64]]


@dataclass(frozen=True)
class BlockForest:
    """Times of one kind of block: a baseline, multiplied by the prediction of an nn-Meter forest.

    Attributes:
        acc10: nn-Meter's own figure, the fraction of held-out blocks within 10 %; None with too few blocks.
        blocks: number of different blocks it was trained on.
    """

    kind: BlockKind
    baseline: Baseline = field(repr=False)
    forest: Any = field(repr=False)
    acc10: float | None
    blocks: int

    def predict_ms(self, blocks: Sequence[Block], trust: float = 1.0) -> NDArray[np.float64]:
        """Milliseconds of each block, shape (n,): baseline · forest ^ trust."""
        base = self.baseline(blocks)
        if self.forest is None or not blocks:
            return base
        ratios = np.asarray(self.forest.predict([features(block) for block in blocks]), np.float64)
        return np.asarray(base * ratios**trust, np.float64)


class BlockFeatureParser:
    """nn-Meter's feature parser for our kernels; nn-Meter instantiates it by name."""

    def __init__(self, kernel_type: str) -> None:
        self.kernel_type = kernel_type
        self.needed_config = list(FEATURE_NAMES)

    def get_feature_by_config(self, config: Mapping[str, Block]) -> list[float]:
        return features(config["block"])

    def get_config_by_feature(self, feature: Sequence[float]) -> dict[str, float]:
        return dict(zip(FEATURE_NAMES, feature, strict=True))


def train_forest(kind: BlockKind, rows: Sequence[BlockRow], baseline: Baseline, hold_out: bool = True) -> BlockForest:
    """Train one kind of block by nn-Meter's `build_predictor_by_data`; deterministic.

    The forest learns the ratio of time to baseline, not milliseconds: nn-Meter minimises squared errors, which in
    milliseconds would depend on the largest blocks only, and a forest does not extrapolate, but the baseline does. Rows
    of one block are averaged first, so that no held-out block is in the training set.

    Args:
        rows: all of this kind.
        baseline: a first guess, milliseconds of each block.
        hold_out: also train on four fifths to measure `acc10`; the returned forest is trained on all rows.

    Raises:
        PredictorError: rows of another kind, or nn-Meter is missing, of another version, or dropped rows.
    """
    if any(row.block.kind is not kind for row in rows):
        raise PredictorError(f"rows for {kind} hold blocks of another kind")
    merged: dict[Block, list[float]] = {}
    for row in rows:
        merged.setdefault(row.block, []).append(row.ms)
    if len(merged) < FEWEST_BLOCKS:
        return BlockForest(kind, baseline, None, None, len(merged))
    blocks = list(merged)
    ratios = np.array([np.mean(times) for times in merged.values()]) / baseline(blocks)
    acc10 = _build(kind, blocks, ratios, final=False)[1] if hold_out else None
    forest, _ = _build(kind, blocks, ratios, final=True)
    return BlockForest(kind, baseline, forest, acc10, len(blocks))


def _build(
    kind: BlockKind, blocks: Sequence[Block], ratios: NDArray[np.float64], final: bool
) -> tuple[Any, float | None]:
    meter = load()
    data = {
        f"id_{i}": {"model": "network", "config": {"block": block}, "latency": meter.latency(float(ratio), 0.0)}
        for i, (block, ratio) in enumerate(zip(blocks, ratios, strict=True))
    }
    name = kernel_name(kind)
    with _sys_path_restored():
        parser = meter.extract_feature.get_feature_parser(name)
        used, _ = meter.extract_feature.get_data_by_profiled_results(name, parser, {name: data})
        if len(used) != len(blocks):
            raise PredictorError(f"nn-Meter dropped {len(blocks) - len(used)} of {len(blocks)} rows of {kind}")
        forest, acc10, _ = meter.build_predictor_by_data(name, {name: data}, BACKEND, final_predictor=final)
    return forest, None if acc10 is None else float(acc10)


def kernel_name(kind: BlockKind) -> str:
    """The name of a kernel in nn-Meter, without "conv" and "fc", which would select nn-Meter's own features."""
    names = {BlockKind.CONV: "mobile", BlockKind.FIRST_CONV: "first", BlockKind.FFN: "feed_forward"}
    return f"elasticvit_{names.get(kind, kind.value)}"


@dataclass(frozen=True)
class NnMeter:
    """The pieces of nn-Meter that are used."""

    version: str
    build_predictor_by_data: Callable[..., Any]
    latency: Callable[[float, float], Any]
    extract_feature: Any


@cache
def load() -> NnMeter:
    """nn-Meter, imported once, with our kernels registered. Raises `PredictorError` if it cannot be used."""
    with _import_lock, _private_home(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            package = importlib.import_module("nn_meter")
            builder = importlib.import_module(f"{_BUILDER}.build_predictor")
            extract_feature = importlib.import_module(f"{_BUILDER}.extract_feature")
            zoo = importlib.import_module(f"{_BUILDER}.predictor_lib")
            latency = importlib.import_module("nn_meter.builder.backend_meta.utils").Latency
        except ImportError as error:
            raise PredictorError(
                f"nn-Meter cannot be imported ({error}); install the extra 'train', which pins nn-meter=={VERSION}"
                " and setuptools<82"
            ) from error
    if package.__version__ != VERSION:
        raise PredictorError(f"nn-Meter {package.__version__} is installed, this needs nn-meter=={VERSION}")
    _quiet(logging.getLogger("nn-Meter"))
    for name in map(kernel_name, BlockKind):
        extract_feature.feature_for_kernel[name] = list(FEATURE_NAMES)
        extract_feature.__dict__["__REG_KERNELS__"][name] = {
            "package_location": str(Path(__file__).parent),
            "parser_module": __name__,
            "parser_name": BlockFeatureParser.__name__,
        }
        zoo.__dict__["__PREDICTOR_ZOO__"][name] = {BACKEND: dict(FOREST)}
    return NnMeter(package.__version__, builder.build_predictor_by_data, latency, extract_feature)


def _quiet(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.ERROR)


@contextmanager
def _private_home() -> Iterator[None]:
    """Set HOME to an empty folder; only during one import, since the environment is that of the whole process."""
    before = os.environ.get("HOME")
    with tempfile.TemporaryDirectory(prefix="elasticvit-nn-meter-") as folder:
        os.environ["HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["HOME"]
            else:
                os.environ["HOME"] = before


@contextmanager
def _sys_path_restored() -> Iterator[None]:
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
