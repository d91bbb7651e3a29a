"""A network as an ONNX file: standard operators, no control flow, any number of images, names of modules.

torch's exporter writes it from the exported program and folds batch norms into the convolutions before them. It names
nodes and values by counters and keeps the source lines that they came from; here they get the names of their modules
and lose the lines, so that the same network gives the same bytes on any machine.
"""

import ast
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from elasticvit.errors import ExportError
from elasticvit.export.converters.exported_program import IMAGES, exported_program, quiet
from elasticvit.nn.net import Net

OPSET = 18
LOGITS = "logits"
_SCOPES = "pkg.torch.onnx.name_scopes"
_BATCH = "batch"
# What an operator reads at a place, where the exporter has made a constant of its own of it.
_ROLES = {("MatMul", 1): "weight", ("Conv", 2): "bias", ("LayerNormalization", 1): "ones"}

# onnx is an extra, and its messages are generated without types.
Proto: TypeAlias = Any


def write_onnx(net: Net, properties: Mapping[str, str]) -> bytes:
    """images (B, 3, side, side), float32 → logits (B, classes); `properties` become `metadata_props`.

    The file has opset 18 and the lowest IR version with that opset, 8, so that onnxruntime from 1.14 on loads it.

    Initializers have the names of the network's parameters. Of these the kernels and biases of convolutions hold the
    batch norm behind them, and the weights of linears in front of which tokens lie are stored as MatMul reads them,
    (in, out).

    Raises:
        ExportError: onnx or onnxscript is missing; training mode, weights that are not finite, or that are not float32
            on the CPU.
    """
    onnx = _onnx()
    with quiet("torch", "onnxscript"), torch.no_grad():
        program = torch.onnx.export(
            exported_program(net), (), dynamo=True, opset_version=OPSET, output_names=[LOGITS], verbose=False
        )
    assert program is not None
    model = program.model_proto
    _rename(model.graph, set(net.state_dict()))
    _strip(model)
    # The exporter writes its newest IR version, which runtimes older than the installed onnx refuse.
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    model.producer_name, model.graph.name = "elasticvit", f"ElasticViT {net.arch.id}"
    onnx.helper.set_model_props(model, dict(properties))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def run_onnx(data: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (B, classes) of images (B, 3, side, side), by onnxruntime on one thread.

    Raises:
        ExportError: onnxruntime is missing, or does not take the file or the images.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(_missing("onnxruntime", error)) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        logits: NDArray[np.float32] = session.run([LOGITS], {IMAGES: images})[0]
        return logits
    except Exception as error:  # its errors have no root of their own
        raise ExportError(f"onnxruntime does not run the ONNX file: {error}") from error


def _onnx() -> Any:  # noqa: ANN401 - a module without types
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ExportError(_missing("onnx", error)) from error
    return onnx


def _missing(package: str, error: ImportError) -> str:
    return f"{package} cannot be imported ({error}); install elasticvit[convert]"


def _rename(graph: Proto, parameters: set[str]) -> None:
    """Name nodes after module and operator, values after their nodes, constants after what they are."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    scopes: dict[str, str] = {}
    used: Counter[str] = Counter()
    for node in graph.node:
        scope = _scope(node, parameters, scopes)
        scopes.update(dict.fromkeys(node.output, scope))
        for place, value in enumerate(node.input):
            if value in initializers and value not in names:
                name = value if value in parameters else _constant(node, place, scope, initializers[value])
                names[value] = _unique(name, used)
        node.name = _unique(f"{scope}/{node.op_type}".lstrip("/"), used)
        for place, value in enumerate(node.output):
            names.setdefault(value, node.name if len(node.output) == 1 else f"{node.name}/{place}")
        node.input[:] = [names[value] if value else "" for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)


def _scope(node: Proto, parameters: set[str], scopes: Mapping[str, str]) -> str:
    """The path of the module that a node belongs to: that of its weights, else where the exporter met it."""
    for value in node.input:
        if value in parameters:
            return str(value.rpartition(".")[0])
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return str(ast.literal_eval(entry.value)[-2])
    return scopes.get(node.input[0], "")


def _constant(node: Proto, place: int, scope: str, tensor: Proto) -> str:
    if (node.op_type, place) in _ROLES:
        return f"{scope}.{_ROLES[node.op_type, place]}"
    import onnx

    numbers = onnx.numpy_helper.to_array(tensor).reshape(-1).tolist()
    kind = {"Reshape": "shape", "ReduceMean": "axes", "Split": "sizes"}.get(node.op_type, "value")
    return "_".join([kind, *map(str, numbers)]) if len(numbers) <= 4 else f"{scope}.{kind}"


def _unique(name: str, used: Counter[str]) -> str:
    """The name, with a number behind it from its second time on."""
    used[name] += 1
    return name if used[name] == 1 else f"{name}_{used[name] - 1}"


def _strip(model: Proto) -> None:
    """Remove what depends on the machine and on the exporter's counters, and the shapes of initializers."""
    known = {tensor.name for tensor in model.graph.initializer}
    shapes = [value for value in model.graph.value_info if value.name not in known]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    for proto in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del proto.metadata_props[:]
        proto.doc_string = ""
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{symbol}\b", _BATCH, axis.dim_param)
