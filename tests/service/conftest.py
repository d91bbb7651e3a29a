"""Homes with an untrained supernet and a real calibration, made once; services that end with their test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from elasticvit.accuracy.evaluate import accuracy_of
from elasticvit.accuracy.table import append
from elasticvit.accuracy.tabulate import EVALUATED
from elasticvit.archs.space import small
from elasticvit.costs.cost_table import CostTable
from elasticvit.data.image_set import digits
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, save_supernet
from server.clock import utc_now
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs
from server.supervise import bootstrap
from tests.service.service_farm import Service, agent_command, elasticvit, free_port, up

SEED = 7
CALIBRATED_ON = 8
CALIBRATIONS, CALIBRATION_SECONDS = 5, 600
TERMS = "for the tests of this package only"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give these tests the time of repeated calibrations, which the first of them waits for."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(CALIBRATIONS * CALIBRATION_SECONDS))


@pytest.fixture(scope="session")
def bare_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that has everything but measurements: what `elasticvit prepare` leaves, without the training."""
    home = tmp_path_factory.mktemp("bare") / "home"
    settings = Settings(home=home)
    database = prepare(settings)
    bootstrap.build_benchmark()
    bootstrap.register_supernet(database, _supernet(settings.supernets_folder), utc_now)
    bootstrap.keep_anchor(database, Blobs(settings.blobs_folder), utc_now)
    bootstrap.ensure_agent_token(database, bootstrap.agent_token_file(settings), utc_now)
    database.close()
    return home


@pytest.fixture(scope="session")
def calibrated_home(bare_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a predictor of this machine, by a real calibration with a few networks."""
    home = copy(bare_home, tmp_path_factory.mktemp("calibrated") / "home")
    service = Service(home, free_port())
    service.start(*elasticvit("serve"))
    service.start(*elasticvit("worker"))
    service.start(*agent_command(home, service.port))
    try:
        service.wait_idle()
        body = {"kind": "calibrate", "device": "host", "count": CALIBRATED_ON}
        # A busy machine disturbs sessions. What one calibration measured counts in the next, so one of them succeeds.
        for _ in range(CALIBRATIONS):
            job = service.wait(service.ok("POST", "/jobs", json=body)["url"], CALIBRATION_SECONDS)
            if job["status"] == "succeeded":
                break
        assert job["status"] == "succeeded", f"{job['error']}\n{service.log_tails()}"
        service.stop()
    finally:
        service.end()
    return home


@pytest.fixture
def home(calibrated_home: Path, tmp_path: Path) -> Path:
    """A fresh copy of the calibrated home."""
    return copy(calibrated_home, tmp_path / "home")


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Service]]:
    """`elasticvit up` on the fresh home, or on another one; waits until it is ready, by default."""
    services: list[Service] = []

    def begin(at: Path = home, port: int | None = None, ready: bool = True, **more: str) -> Service:
        service = up(at, port, **more)
        services.append(service)
        if ready:
            service.wait_ready()
        return service

    yield begin
    for service in services:
        service.end()


@pytest.fixture
def parts(home: Path) -> Iterator[Service]:
    """The fresh home for processes that a test starts one by one."""
    service = Service(home, free_port())
    yield service
    service.end()


@pytest.fixture(scope="session")
def running(calibrated_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that leave it running."""
    service = up(copy(calibrated_home, tmp_path_factory.mktemp("running") / "home"))
    try:
        service.wait_ready()
        yield service
    finally:
        service.end()


def copy(home: Path, to: Path) -> Path:
    shutil.copytree(home, to)
    return to


def _supernet(folder: Path) -> Path:
    """A seeded, untrained supernet with the accuracies that it really has."""
    torch.manual_seed(SEED)
    space, images = small(10), digits()
    net = SuperNet(space)
    file = folder / "digits.safetensors"
    save_supernet(file, net, Card("digits", images.class_names, "digits", terms=TERMS))
    # The smallest of many, since evaluating large ones takes seconds each.
    codes = np.unique(space.sample(np.random.default_rng(SEED), 50 * EVALUATED), axis=0)
    codes = codes[np.argsort(CostTable.of_macs(space).total(codes))][:EVALUATED]
    top1 = [accuracy_of(net, space.decode(code), images, "search").value for code in codes]
    append(folder / "digits.accuracy.jsonl", space, len(images.search), codes, top1)
    return file
