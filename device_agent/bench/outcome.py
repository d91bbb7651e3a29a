"""What the output of one run of android_bench means: a result, or whose fault a failure is and why."""

from __future__ import annotations

import re

from device_agent.bench.result import BenchResult, read_result
from device_agent.bench.runner import BenchOutput
from device_agent.errors import BadModel, DeviceFault, InfraFault, WorkError
from server.wire.process import exit_text

# Whose fault an exit code of android_bench is (its README, "Exit codes"); any other is the device's.
FAULTS: dict[int, type[WorkError]] = {
    2: InfraFault,  # bad argument
    3: InfraFault,  # library missing or unfit
    4: BadModel,
    5: InfraFault,  # CPU mask or threads refused
    6: InfraFault,  # result cannot be written
}
OUR_ERROR = "android_bench: error: "
# LiteRT logs its reasons to stderr, one per line, often after the place in its source code.
RUNTIME_ERROR = re.compile(r"^[ \t]*(?:ERROR|FATAL):[ \t]*(?:\[[^\]\n]*\][ \t]*)?(\S.*)$", re.MULTILINE)
# LiteRT's message for a shape with -1 in it does not name the cause.
UNFIXED_SHAPE = "BytesRequired number of elements overflowed"
MAX_REASONS = 5
MAX_REASON_CHARS = 300


def result_of(output: BenchOutput) -> BenchResult:
    """The result of a run that succeeded. Raises the WorkError of one that failed, with the reason that LiteRT gave."""
    if output.returncode != 0:
        fault = FAULTS.get(output.returncode, DeviceFault)
        raise fault(_why(output), log=output.stderr)
    if output.result is None:
        raise InfraFault("android_bench succeeded and left no result: build it again", log=output.stderr)
    return read_result(output.result)


def runtime_reasons(stderr: str) -> list[str]:
    """The errors that LiteRT logged, in its order, each once."""
    lines = [match.group(1).strip()[:MAX_REASON_CHARS] for match in RUNTIME_ERROR.finditer(stderr)]
    if any(UNFIXED_SHAPE in line for line in lines):
        lines.append("(a tensor has no fixed shape: export the model with fixed shapes)")
    return list(dict.fromkeys(lines))


def _why(output: BenchOutput) -> str:
    """The sentence of android_bench, and after it what LiteRT said; the last errors are the most specific ones."""
    sentence = _sentence(output.stderr) or f"android_bench ended with {exit_text(output.returncode)} and no message"
    reasons = runtime_reasons(output.stderr)[-MAX_REASONS:]
    return f"{sentence}; LiteRT says: {' / '.join(reasons)}" if reasons else sentence


def _sentence(stderr: str) -> str:
    """The last error of android_bench, else the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.partition(OUR_ERROR)[2] for line in lines if OUR_ERROR in line]
    return (errors or lines or [""])[-1]
