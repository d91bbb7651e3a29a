"""What the agent's tests work with: real agent processes, and a benchmark that the model file controls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.wire import BlobRef, Report
from tests.device_agent.fake_server import TOKEN, FakeServer

PATIENCE_SECONDS = 30.0

# A benchmark with android_bench's flags, result and exit codes; the "model" is JSON that sets its behaviour.
BENCH = """#!{python} -SE
import json, os, sys, time
arguments = sys.argv[1:]
profile = "--profile" in arguments
arguments = [argument for argument in arguments if argument != "--profile"]
flags = dict(zip(arguments[::2], arguments[1::2]))
with open(flags["--model"]) as file:
    model = json.load(file)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "journal"), "a") as journal:
    journal.write(json.dumps(dict(label=model["label"], profile=profile, flags=flags, pid=os.getpid())) + "\\n")
while model.get("until") and not os.path.exists(model["until"]):
    time.sleep(0.01)
sys.stderr.write(model.get("stderr", ""))
if model.get("signal"):
    os.kill(os.getpid(), model["signal"])
if model.get("exit"):
    sys.exit(model["exit"])
ops = [dict(node=i, tag=tag, count=20, total_us=20.0 * (i + 1)) for i, tag in enumerate(["CONV", "ADD"])]
result = dict(
    schema=1, samples_ns=[model["ns"] + i for i in range(int(flags["--runs"]))], init_us=1500.0, first_us=3000.0,
    threads=dict(asked=1, got=1), affinity=dict(asked=flags.get("--cpu-mask"), got="1"), fully_accelerated=True,
    peak_rss_kb=model["ns"], involuntary_switches=0, something_new=[1],
    profile=dict(runs=10, ops=ops) if profile else None,
)
result.update(model.get("result", {{}}))
if not model.get("no_result"):
    with open(flags["--out"], "w") as out:
        json.dump(result, out)
"""


def wait_until(what: str, condition: Callable[[], object]) -> None:
    """Fails when the condition does not come true in time; the time is no promise, only an end."""
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline_s, f"still waiting for: {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Farm:
    """A server, a home folder and a benchmark; agents are real processes."""

    server: FakeServer
    folder: Path
    agents: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def program(self) -> Path:
        return self.folder / "bench" / "fake_bench"

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def model(self, label: str = "model", ns: int = 2000, **behaviour: Any) -> BlobRef:  # noqa: ANN401
        return self.server.blob(json.dumps({"label": label, "ns": ns, **behaviour}).encode())

    def bench_calls(self) -> list[dict[str, Any]]:
        """How the benchmark was called, oldest first."""
        journal = self.program.with_name("journal")
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    def environment(self, **more: str) -> dict[str, str]:
        values = {"BENCH": str(self.program), "LIBRARY": str(self.token_file), "MAX_BACKOFF_SECONDS": "0.2"}
        values |= {"BENCH_GRACE_SECONDS": "20", "SANDBOX": "off", **more}
        return os.environ | {f"ELASTICVIT_AGENT_{name}": value for name, value in values.items()}

    def command(self, *more: str) -> list[str]:
        command = [sys.executable, "-m", "device_agent.cli", "run", "--server", self.server.url, "--host"]
        return [*command, "--token-file", str(self.token_file), "--home", str(self.home), *more]

    def start(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        """An agent in the background; its log is `agent.log` in the folder."""
        with (self.folder / "agent.log").open("a") as log:
            agent = subprocess.Popen(self.command(*more), env=self.environment(**environment), stderr=log, text=True)
        self.agents.append(agent)
        return agent

    def run(self, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """An agent that is expected to end by itself."""
        return subprocess.run(
            self.command(*more),
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def wait_for_report(self, count: int = 1) -> Report:
        wait_until(f"{count} reports", lambda: len(self.server.reports) >= count)
        return self.server.reports[count - 1]

    def files(self, name: str) -> list[str]:
        """What lies in a folder of the agent's home."""
        return sorted(path.name for path in (self.home / name).iterdir())

    def spooled(self) -> list[str]:
        """The reports that are whole on the disk, which a killed agent does not lose."""
        return sorted(path.name for path in (self.home / "spool").glob("*.json") if not path.name.startswith("."))

    def end(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()
        for call in self.bench_calls():
            with suppress(OSError):  # it may have ended; the path excludes a reused pid
                if os.fsencode(self.program) in Path(f"/proc/{call['pid']}/cmdline").read_bytes():
                    os.kill(call["pid"], signal.SIGKILL)
        self.server.stall_at = None
        self.server.close()


def make_farm(folder: Path) -> Farm:
    farm = Farm(FakeServer(), folder)
    farm.token_file.write_text(TOKEN + "\n")
    farm.program.parent.mkdir()
    farm.program.write_text(BENCH.format(python=sys.executable))
    farm.program.chmod(0o755)
    return farm
