"""What the output of one run of android_bench means: a result, or whose fault a failure is and why."""

from __future__ import annotations

import re
import signal

from device_agent.bench.result import BenchResult, read_result
from device_agent.bench.runner import BenchOutput, MemoryUse
from device_agent.errors import BadModel, DeviceFault, InfraFault, Unfinished, WorkError
from server.wire.process import exit_text

# Whose fault an exit code of android_bench is (its README, "Exit codes"), or of the launcher of the sandbox; any other
# is the device's.
FAULTS: dict[int, type[WorkError]] = {
    2: InfraFault,  # bad argument
    3: InfraFault,  # library missing or unfit
    4: BadModel,
    5: InfraFault,  # CPU mask or threads refused
    6: InfraFault,  # result cannot be written
    120: InfraFault,  # the sandbox cannot be made
}
NOT_ENOUGH_MEMORY = 8
OUR_ERROR = re.compile(r"(?:android_bench|sandbox): error: (.*)")
# LiteRT logs its reasons to stderr, one per line, often after the place in its source code.
RUNTIME_ERROR = re.compile(r"^[ \t]*(?:ERROR|FATAL):[ \t]*(?:\[[^\]\n]*\][ \t]*)?(\S.*)$", re.MULTILINE)
# LiteRT's message for a shape with -1 in it does not name the cause.
UNFIXED_SHAPE = "BytesRequired number of elements overflowed"
MAX_REASONS = 5
MAX_REASON_CHARS = 300

CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT, signal.SIGFPE, signal.SIGSYS)
CRASH_NUMBER = re.compile(r"\(signal (\d+)\)")
NO_ANSWER = "LiteRT gave no answer in time"
# How C++, XNNPACK and LiteRT fail when memory is refused. The last two also fail so for rarer reasons.
REFUSED_MEMORY = re.compile(r"bad_alloc|[Oo]ut of memory|failed to reshape runtime|\(buffer of a tensor: status")
# The interpreter's, alone: after an operator that failed, this line follows the operator's own.
REFUSED_ARENA = ["Failed to allocate tensors"]
# A run that is killed with less was not what used up the machine's memory.
LARGE_BYTES = 256_000_000


def result_of(output: BenchOutput) -> BenchResult:
    """The result of a run that succeeded. Raises the WorkError of one that failed, with the reason that LiteRT gave."""
    if output.returncode != 0:
        raise _fault(output)
    if output.result is None:
        raise InfraFault("android_bench succeeded and left no result: build it again", log=output.stderr)
    return read_result(output.result)


def runtime_reasons(stderr: str) -> list[str]:
    """The errors that LiteRT logged, in its order, each once."""
    lines = [match.group(1).strip()[:MAX_REASON_CHARS] for match in RUNTIME_ERROR.finditer(stderr)]
    if any(UNFIXED_SHAPE in line for line in lines):
        lines.append("(a tensor has no fixed shape: export the model with fixed shapes)")
    return list(dict.fromkeys(lines))


def _fault(output: BenchOutput) -> WorkError:
    why = _why(output)
    if output.returncode < 0:
        return _killed(output, why)
    fault = FAULTS.get(output.returncode, DeviceFault)
    if output.memory is not None:
        if output.returncode == NOT_ENOUGH_MEMORY:
            fault, why = BadModel, f"the model needs {_too_much(output.memory)}: {why}"
        elif fault is BadModel and _was_refused_memory(output.stderr):
            why = f"the model most likely needs {_too_much(output.memory)}: {why}"
    if fault is DeviceFault and (NO_ANSWER in output.stderr or CRASH_NUMBER.search(output.stderr)):
        fault = Unfinished
    return fault(why, log=output.stderr)


def _killed(output: BenchOutput, why: str) -> WorkError:
    number, memory = -output.returncode, output.memory
    ended = exit_text(output.returncode).removeprefix("signal ")
    if number == signal.SIGKILL and memory is not None and memory.oom_killed:
        if memory.peak_bytes < LARGE_BYTES:
            return DeviceFault(
                f"killed by SIGKILL with {_mb(memory.peak_bytes)} MB, because the memory of the machine ran out: end "
                "what uses it up",
                log=output.stderr,
            )
        return BadModel(
            f"killed by SIGKILL: the model needs more than {_mb(memory.peak_bytes)} MB of memory, and the device has "
            "no more: use a smaller model or a smaller input",
            log=output.stderr,
        )
    if number == signal.SIGXFSZ:
        return BadModel(f"killed by {ended}: the samples of one run are too many: lower min_secs", log=output.stderr)
    if number == signal.SIGXCPU:
        return Unfinished(
            f"killed by {ended}: the model is too slow, or endless; use a smaller one, or raise max_secs of the "
            "protocol",
            log=output.stderr,
        )
    if number in CRASHES:
        return Unfinished(
            f"killed by {ended}: LiteRT crashed on the model: copy or convert it again{_reasons(output.stderr)}",
            log=output.stderr,
        )
    return DeviceFault(why, log=output.stderr)


def _was_refused_memory(stderr: str) -> bool:
    return REFUSED_MEMORY.search(stderr) is not None or runtime_reasons(stderr) == REFUSED_ARENA


def _too_much(memory: MemoryUse) -> str:
    return (
        f"more than {_mb(memory.limit_bytes)} MB of memory, the limit of this device (use a smaller model or a smaller "
        "input, or raise ELASTICVIT_AGENT_BENCH_MEMORY_MB)"
    )


def _mb(size_bytes: int) -> int:
    return size_bytes // 1_000_000


def _why(output: BenchOutput) -> str:
    """The sentence of android_bench, and after it what LiteRT said."""
    sentence = _sentence(output.stderr) or f"android_bench ended with {exit_text(output.returncode)} and no message"
    return sentence + _reasons(output.stderr)


def _reasons(stderr: str) -> str:
    """To be appended to a sentence. The last errors are the most specific ones."""
    reasons = runtime_reasons(stderr)[-MAX_REASONS:]
    return f"; LiteRT says: {' / '.join(reasons)}" if reasons else ""


def _sentence(stderr: str) -> str:
    """The last error of android_bench, else the last line; crashes by the names of their signals."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [match.group(1) for line in lines if (match := OUR_ERROR.search(line))]
    sentence = (errors or lines or [""])[-1]
    return CRASH_NUMBER.sub(lambda match: f"({exit_text(-int(match.group(1))).removeprefix('signal ')})", sentence)
