"""The reason of a failed run: what LiteRT logged, with real models that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from device_agent.bench.command import BenchRequest
from device_agent.bench.find import find_bench
from device_agent.bench.local_process import LocalProcess
from device_agent.bench.outcome import result_of, runtime_reasons
from device_agent.bench.runner import BenchOutput, MemoryUse
from device_agent.cancellation import Cancellation
from device_agent.errors import BadModel, DeviceFault, InfraFault, Unfinished, WorkError
from device_agent.sandbox.command import Sandbox
from server.wire import MeasureProtocol
from tests.server.server_farm import tiny_tflite


def with_operator(name: str) -> Callable[[schema.ModelT], None]:
    def change(model: schema.ModelT) -> None:
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = name.encode()
        model.subgraphs[0].operators[0].builtinOptionsType = 0
        model.subgraphs[0].operators[0].builtinOptions = None

    return change


def with_unfixed_shape(model: schema.ModelT) -> None:
    for index in (0, 2):
        model.subgraphs[0].tensors[index].shape = [-1, 4]


def with_variable_tensor(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[0].isVariable = True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_operator("FlexErf"), "FlexErf"),
        (with_operator("MyOwnOp"), "MyOwnOp"),
        (with_variable_tensor, "Variable tensors not yet supported"),
        (with_unfixed_shape, "fixed shape"),
    ],
)
def test_the_runtimes_reason_is_in_the_failure(
    tmp_path: Path, change: Callable[[schema.ModelT], None], reason: str
) -> None:
    model = schema.ModelT.InitFromPackedBuf(tiny_tflite(), 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    file = tmp_path / "refused.tflite"
    file.write_bytes(bytes(builder.Output()))
    runner = LocalProcess(find_bench(None, None), tmp_path, 30.0, Sandbox(10**9))
    request = BenchRequest(file, MeasureProtocol(runs=1, min_secs=0.0), None, profile=False)
    with pytest.raises(BadModel, match=reason) as caught:
        result_of(runner.run(request, Cancellation()))
    assert "\n" not in str(caught.value) and caught.value.failure().kind == "user"


GIGABYTE = 10**9
UNPREPARED = "ERROR: Node number 0 (SIGN) failed to prepare.\nERROR: [a.cc:1] Failed to allocate tensors\n"


@pytest.mark.parametrize(
    ("returncode", "stderr", "memory", "error", "detail"),
    [
        (-9, "", MemoryUse(2 * GIGABYTE, GIGABYTE, True), BadModel, "killed by SIGKILL: .* more than 1000 MB"),
        (-9, "", MemoryUse(2 * GIGABYTE, 10**7, True), DeviceFault, "killed by SIGKILL with 10 MB"),
        (-9, "", MemoryUse(2 * GIGABYTE, GIGABYTE, False), DeviceFault, "signal SIGKILL and no message"),
        (-11, "ERROR: last words\n", None, Unfinished, "killed by SIGSEGV: .*last words"),
        (-24, "", None, Unfinished, "killed by SIGXCPU: .*max_secs"),
        (-25, "", None, BadModel, "killed by SIGXFSZ: .*min_secs"),
        (4, "ERROR: [a.cc:1] Failed to allocate tensors\n", MemoryUse(GIGABYTE, 1, False), BadModel, "than 1000 MB"),
        (4, "terminating: std::bad_alloc\n", MemoryUse(GIGABYTE, 1, False), BadModel, "more than 1000 MB"),
        (4, UNPREPARED, MemoryUse(GIGABYTE, 1, False), BadModel, "^(?!.*1000 MB).*failed to prepare"),
        (8, "", MemoryUse(GIGABYTE, 1, False), BadModel, "the model needs more than 1000 MB"),
        (7, "android_bench: error: LiteRT gave no answer in time: x\n", None, Unfinished, "no answer in time"),
        (7, "android_bench: error: a run crashed (signal 11)\n", None, Unfinished, "crashed \\(SIGSEGV\\)"),
        (7, "android_bench: error: run 3 failed (status 3): x\n", None, DeviceFault, "run 3 failed"),
        (120, "sandbox: error: it cannot be started\n", None, InfraFault, "^it cannot be started$"),
    ],
)
def test_each_end_has_its_fault(
    returncode: int, stderr: str, memory: MemoryUse | None, error: type[WorkError], detail: str
) -> None:
    with pytest.raises(WorkError, match=detail) as caught:
        result_of(BenchOutput(returncode, stderr, None, memory))
    assert type(caught.value) is error


def test_reasons_are_the_errors_of_the_runtime_each_once() -> None:
    stderr = (
        "INFO: [environment.cc:36] Creating LiteRT environment\n"
        "WARNING: no NPU\n"
        "ERROR: [model_load.cc:316] Variable tensors not yet supported.\n"
        "ERROR: \n"
        "ERROR: [other.cc:1] Variable tensors not yet supported.\n"
        "ERROR: Node number 0 (FlexErf) failed to prepare.\n"
        "android_bench: error: run 1 failed\n"
    )
    assert runtime_reasons(stderr) == [
        "Variable tensors not yet supported.",
        "Node number 0 (FlexErf) failed to prepare.",
    ]
