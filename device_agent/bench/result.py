"""The result file of android_bench (schema 1), validated and converted to the types of reports.

android_bench/README.md defines it; fields that are not listed here are ignored.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_agent.errors import InfraFault
from server.wire import BenchRun, OpTime
from server.wire.text import MAX_TEXT_CHARS, plain_value

# Of more samples than this, evenly spaced ones are kept, which preserves the quantiles and bounds the report.
MAX_KEPT_SAMPLES = 5000


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Threads(_Read):
    asked: int
    got: int


class Affinity(_Read):
    """Hexadecimal masks; `asked` is None if the kernel chose the CPUs."""

    asked: str | None
    got: str | None


class BenchOp(_Read):
    """One operation: `count` events in all runs of the operator profile."""

    node: int = Field(ge=-1)
    tag: str
    count: int = Field(ge=0)
    total_us: float = Field(ge=0)
    median_us: float | None = Field(default=None, ge=0)


class Profile(_Read):
    runs: int = Field(ge=1)
    ops: list[BenchOp]


class BenchResult(_Read):
    """The result of one benchmark process. Clocks are in kHz, one per CPU; temperatures in thousandths of °C."""

    version: Literal[1] = Field(alias="schema")
    samples_ns: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]
    init_us: float | None = Field(default=None, ge=0)
    first_us: float | None = Field(default=None, ge=0)
    threads: Threads
    affinity: Affinity
    cut_short: bool = False
    fully_accelerated: bool | None = None
    peak_rss_kb: int | None = None
    involuntary_switches: int | None = None
    cpu_khz_before: list[int | None] = []
    cpu_khz_after: list[int | None] = []
    temperature_mc_before: list[dict[str, Any]] = []
    temperature_mc_after: list[dict[str, Any]] = []
    profile: Profile | None = None

    def bench_run(self) -> BenchRun:
        return BenchRun(
            samples_ns=_thinned(self.samples_ns, MAX_KEPT_SAMPLES),
            init_ms=_ms(self.init_us),
            first_ms=_ms(self.first_us),
            conditions=self._conditions(),
        )

    def op_times(self) -> list[OpTime] | None:
        """The operations of the operator profile in execution order, None without one; `avg_us` is per inference."""
        if self.profile is None:
            return None
        runs = self.profile.runs
        return [
            OpTime(
                node=op.node,
                tag=op.tag[:MAX_TEXT_CHARS],
                count=op.count,
                total_us=op.total_us,
                avg_us=op.total_us / runs,
                # A median over events is one over inferences only if each inference has one event.
                median_us=op.median_us if op.count == runs else None,
            )
            for op in self.profile.ops
        ]

    def _conditions(self) -> dict[str, Any]:
        names = {"threads", "affinity", "cut_short", "involuntary_switches"}
        names |= {"cpu_khz_before", "cpu_khz_after", "temperature_mc_before", "temperature_mc_after"}
        conditions = self.model_dump(mode="json", include=names)
        if len(self.samples_ns) > MAX_KEPT_SAMPLES:
            conditions["samples_taken"] = len(self.samples_ns)
        return conditions


def read_result(data: bytes) -> BenchResult:
    """The result in a file; U+FFFD stands for what is no text in it, which must not cost a measurement.

    Raises InfraFault if the file is not a result of this schema.
    """
    try:
        # Not pydantic's own reader of JSON, which refuses lone surrogates.
        return BenchResult.model_validate(plain_value(json.loads(data.decode(errors="replace"))))
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable(f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(f"the file: {error}") from error


def _unreadable(reason: str) -> InfraFault:
    return InfraFault(
        f"android_bench wrote a result that this agent cannot read ({reason}): "
        "use android_bench and agent of the same version"
    )


def _ms(us: float | None) -> float | None:
    return None if us is None else us / 1e3


def _thinned(samples: list[int], max_count: int) -> list[int]:
    if len(samples) <= max_count:
        return samples
    return [samples[i * len(samples) // max_count] for i in range(max_count)]
