"""What the tests of exporting share: supernet files good and bad, watches that meddle, and a worker driven by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elasticvit.archs.arch import Arch
from elasticvit.data.image_set import ImageSet, load_named
from elasticvit.errors import DataError
from elasticvit.hashing import file_sha256
from elasticvit.nn import tensorfile
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import CALIBRATION, Card
from elasticvit.nn.supernet_header import FORMAT
from server.compute import worker
from server.compute.executor import execute
from server.compute.exporting.loaded_supernet import LoadedSupernets, LoadImages
from server.compute.exporting.order import Exporter, ExportTflite, Order, Result, Watch
from server.compute.exporting.work import run_order
from server.compute.jobs.tools import Tools
from server.compute.supernet_cache import SupernetCache
from server.compute.task import Compute, Task
from server.services import claims
from server.settings import Settings
from server.store.supernet_file import SupernetRef, table_sha256
from server.wire import JobKind
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.server_farm import Farm, attempts
from tests.server.supernet_files import supernet_file

NOWHERE = "no-such-set"


def ref(file: Path) -> SupernetRef:
    return SupernetRef(file.stem, file, file_sha256(file), table_sha256(file))


def export(file: Path, arch: Arch | None = None, recalibrate: bool = True) -> ExportTflite:
    """The order for a `.tflite` of the supernet file, by default of its largest network."""
    return ExportTflite(ref(file), arch or tiny_space().largest(), recalibrate=recalibrate)


def no_images(name: str) -> ImageSet:
    """As on a machine without images."""
    raise DataError(f"no images of {name}")


class LocalExporter:
    """An exporter in the calling process."""

    def __init__(self, load_images: LoadImages = load_named) -> None:
        self._loaded = LoadedSupernets(load_images)

    def run(self, order: Order[Result], watch: Watch) -> Result:
        def say(stage: str) -> None:
            watch.stage(stage)
            watch.check()

        return run_order(order, self._loaded, say)


def noted_images(names: list[str]) -> LoadImages:
    """Image sets as usual; the name of each is appended to `names` when it is loaded."""

    def load(name: str) -> ImageSet:
        names.append(name)
        return load_named(name)

    return load


def damaged(file: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A supernet file that our writer would refuse, with a table beside it."""
    supernet_file(file, data=NOWHERE)
    torch.manual_seed(0)
    space = tiny_space()
    state = dict(SuperNet(space).net.state_dict())
    change(state)
    card = Card("tiny", tuple("0123456789"), NOWHERE)
    header = {"format": FORMAT, "space": space.to_json(), "card": card.to_json()}
    file.write_bytes(tensorfile.encode(state, header))
    return file


def with_nan(state: dict[str, Tensor]) -> None:
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name] = torch.full_like(state[name], float("nan"))


def with_one_image(state: dict[str, Tensor]) -> None:
    state[CALIBRATION] = torch.zeros((1, 3, 32, 32), dtype=torch.uint8)


@dataclass
class Meddler:
    """A watch that runs a function at a stage and raises when it is called."""

    at: str = ""
    act: Callable[[], None] = lambda: None
    objection: Exception | None = None
    stages: list[str] = field(default_factory=list)

    def stage(self, name: str) -> None:
        self.stages.append(name)
        if name == self.at:
            self.act()

    def check(self) -> None:
        if self.objection is not None:
            raise self.objection


@dataclass
class Meddled:
    """An exporter of which something happens at a stage of its work."""

    exporter: Exporter
    at: str
    act: Callable[[], None]

    def run(self, order: Order[Result], watch: Watch) -> Result:
        meddled = self

        class Meddling:
            def stage(self, name: str) -> None:
                if name == meddled.at:
                    meddled.act()
                watch.stage(name)

            def check(self) -> None:
                watch.check()

        return self.exporter.run(order, Meddling())


def compute_of(farm: Farm, **settings: Any) -> Compute:  # noqa: ANN401
    return Compute(Settings(home=farm.home, **settings), farm.database, farm.blobs, farm.clock)


def executing(compute: Compute, exporter: Exporter, converter: Exporter | None = None) -> worker.Execute:
    """What a worker with these exporters does with a job."""
    tools = Tools(SupernetCache(compute), exporter, converter or exporter)
    return lambda task: execute(task, tools)


def work_off(farm: Farm, exporter: Exporter, converter: Exporter | None = None) -> int:
    """Do all compute jobs that wait, as a worker does; returns how many attempts that took."""
    compute = compute_of(farm)
    run = executing(compute, exporter, converter)
    done = 0
    while True:
        with farm.database.write() as session:
            claimed = claims.claim_compute(session, "by-hand", (JobKind.SUBNET, JobKind.CONVERT), farm.clock())
        if claimed is None:
            return done
        worker.run_job(Task(compute, claimed, threading.Event()), run)
        done += 1


def served(farm: Farm, file: Path) -> str:
    """Add a supernet file; its name."""
    answer = farm.call("POST", "/supernets", json={"path": str(file)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["name"])


def ask(farm: Farm, supernet: str, arch: Arch | None = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """The answer to POST /subnets."""
    body = {"arch": (arch or tiny_space().largest()).to_json(), "supernet": supernet, **more}
    answer: dict[str, Any] = farm.ok("POST", "/subnets", "user", json=body)
    return answer


MEMORY = 4_000_000_000


class Never:
    """An exporter for what must not be exported."""

    def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
        raise AssertionError(f"exported again: {order}")


def nothing_stored(farm: Farm) -> None:
    assert farm.ok("GET", "/models")["items"] == []
    assert farm.blob_count() == 0 and farm.left_behind() == []


def only_failure(farm: Farm, kind: str) -> str:
    """Why the only job failed, at its first attempt."""
    (job,) = farm.ok("GET", "/jobs")["items"]
    assert job["status"] == "failed" and job["attempts"] == 1 and job["result"] is None
    assert job["error"]["kind"] == kind
    return str(job["error"]["detail"])


def log_of(farm: Farm) -> str:
    (job,) = farm.ok("GET", "/jobs")["items"]
    with farm.database.read() as session:
        (attempt,) = attempts(session, job["id"])
    return attempt.log
