"""Folds a trained network into its static form: the same function with fewer operations.

Batch norms go into the convolutions before them, an image norm's scale and shift and the attention scale into the
linear behind them, head-major qkv rows into plain q|k and v, the position-bias table into one constant. All of it in
float64, rounded once.

Where the file takes pixels, 1 / (255 · std) goes into the first convolution's weights. The mean cannot go into its
bias: it pads zeros, which stand for the mean and not for black, so at the border a part of the bias would be too much.
One subtraction of the mean before the padding is exact. Its constant is a row of pixels, (1, 1, side, 3): with one
number a channel XNNPACK works through the image three floats at a time (on S1 0.095 ms instead of 0.005 of 6.8), and a
table of corrections behind the convolution costs 0.045 ms and 0.6 MB. XNNPACK takes no PADV2, which could pad the mean
where all channels have the same, and no CAST, so bytes come in as a quantised tensor and through DEQUANTIZE.

Sums over weights are written `(a * b).sum(-1)` and not as a BLAS product: that is the same on every machine, and so are
the bytes of a file.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from elasticvit.archs.arch import HEAD_DIM
from elasticvit.costs.blocks import Block
from elasticvit.errors import ExportError
from elasticvit.export.graph.builder import Floats, GraphBuilder, Linear
from elasticvit.export.graph.ops import Activation, Graph, OpList, Value
from elasticvit.export.input_form import InputForm, InputKind
from elasticvit.nn.layers import Attention, ConvBn, FeedForward, Head, ImageNorm, MobileBlock, SqueezeExcite
from elasticvit.nn.net import Net, VitStageNet

_M = TypeVar("_M", bound=nn.Module)


_AS_TRAINED = InputForm()


def fold(net: Net, dtype: type[np.floating[Any]] = np.float32, form: InputForm = _AS_TRAINED) -> Graph:
    """The static form of a network in eval mode; its input is one image (1, side, side, 3) of that form.

    Raises:
        ExportError: the network is in training mode, or holds NaN or infinite weights; or a form other than normalised
            has no usable `mean` and `std`.
    """
    if net.training:
        raise ExportError("the network is in training mode, where batch norms depend on the batch; call net.eval()")
    side = net.arch.resolution
    builder = GraphBuilder(Value("images", (1, side, side, 3), is_bytes=form.kind is InputKind.UINT8), dtype)
    builder.enter("first_conv")
    centred, scale = _centred(builder, form)
    x = _conv_bn(builder, "conv", centred, net.first_conv, stride=2, input_scale=scale)
    x = builder.hard_swish("act", x)
    for scope, stage in (("stem", net.stem), *((f"conv{i}", stage) for i, stage in enumerate(net.conv))):
        for i, block in enumerate(_modules(stage, MobileBlock)):
            builder.enter(f"{scope}/block{i}")
            x = _mobile_block(builder, x, block)
    for i, vit in enumerate(_modules(net.vit, VitStageNet)):
        builder.enter(f"vit{i}/reduction")
        x = _mobile_block(builder, x, vit.reduction)
        layers = zip(_modules(vit.attention, Attention), _modules(vit.ffn, FeedForward), strict=True)
        for j, (attention, ffn) in enumerate(layers):
            builder.enter(f"vit{i}/layer{j}/attention")
            x = _attention(builder, x, attention)
            builder.enter(f"vit{i}/layer{j}/ffn")
            x = _feed_forward(builder, x, ffn)
    builder.enter("head")
    return builder.graph(net.arch, _head(builder, x, net.head))


def fold_block(block: Block, layer: nn.Module, dtype: type[np.floating[Any]] = np.float32) -> OpList:
    """The static form of one block by itself, (1, side, side, width) to the same or logits; the same rules as `fold`.

    Raises:
        ExportError: the layer is in training mode, or holds NaN or infinite weights.
    """
    if layer.training:
        raise ExportError("the block is in training mode, where batch norms depend on the batch; call eval()")
    builder = GraphBuilder(Value("images", (1, block.side_in, block.side_in, block.width_in)), dtype)
    builder.enter(block.kind.value)
    match layer:
        case ConvBn():
            y = builder.hard_swish("act", _conv_bn(builder, "conv", builder.input, layer, stride=block.stride))
        case MobileBlock():
            y = _mobile_block(builder, builder.input, layer)
        case Attention():
            y = _attention(builder, builder.input, layer)
        case FeedForward():
            y = _feed_forward(builder, builder.input, layer)
        case Head():
            y = _head(builder, builder.input, layer)
        case _:
            raise TypeError(f"no block is a {type(layer).__name__}")
    return builder.op_list(y)


def _centred(builder: GraphBuilder, form: InputForm) -> tuple[Value, NDArray[np.float64]]:
    """The image with mean zero, and what it has to be multiplied by, (3,)."""
    if not form.is_pixels:
        return builder.input, np.ones(3)
    mean, std = np.array(form.mean), np.array(form.std)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ExportError(f"mean {form.mean} and std {form.std} normalise no pixels: std has to be above 0")
    x = builder.dequantize("floats", builder.input) if builder.input.is_bytes else builder.input
    row = np.broadcast_to(255 * mean, (1, 1, x.shape[2], 3))
    return builder.sub("centre", x, row), 1 / (255 * std)


def _modules(modules: nn.Module, kind: type[_M]) -> Iterator[_M]:
    """The members of a list of modules, which torch does not type."""
    for module in modules.children():
        assert isinstance(module, kind)
        yield module


def _floats(tensor: Tensor) -> Floats:
    """In the network's own precision; a product with anything of a norm (`_doubles`) is float64."""
    return np.asarray(tensor.detach().cpu().numpy())


def _doubles(tensor: Tensor) -> NDArray[np.float64]:
    return _floats(tensor).astype(np.float64)


def _scale_and_shift(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A batch norm as y = scale · x + shift, each (channels,)."""
    assert bn.running_mean is not None and bn.running_var is not None
    with np.errstate(all="ignore"):  # a damaged norm shows in the weights, which are checked
        scale = _doubles(bn.weight) / np.sqrt(_doubles(bn.running_var) + bn.eps)
        return scale, _doubles(bn.bias) - _doubles(bn.running_mean) * scale


def _conv_bn(
    builder: GraphBuilder,
    name: str,
    x: Value,
    layer: ConvBn,
    stride: int = 1,
    input_scale: float | NDArray[np.float64] = 1.0,
) -> Value:
    """Convolution and norm as one convolution of `x · input_scale`, one number or one per channel, (in,)."""
    scale, shift = _scale_and_shift(layer.bn)
    kernel = layer.conv.kernel_size[0]
    weight = _floats(layer.conv.weight) * scale[:, None, None, None] * np.reshape(input_scale, (-1, 1, 1))
    if stride > 1:
        # torch pads both sides alike, SAME would not; runtimes fuse the padding into the convolution.
        x = builder.pad(f"{name}_pad", x, kernel // 2, kernel // 2)
    if layer.conv.groups > 1:
        return builder.depthwise(name, x, weight.transpose(1, 2, 3, 0), shift, stride, same=stride == 1)
    return builder.conv(name, x, weight.transpose(0, 2, 3, 1), shift, stride, same=stride == 1)


def _mobile_block(builder: GraphBuilder, x: Value, layer: MobileBlock) -> Value:
    y = x
    if layer.expand is not None:
        y = builder.hard_swish("expand_act", _conv_bn(builder, "expand", y, layer.expand))
    y = builder.hard_swish("depthwise_act", _conv_bn(builder, "depthwise", y, layer.depthwise, layer.block.stride))
    if layer.squeeze is None:
        y = _conv_bn(builder, "project", y, layer.project)
    else:
        y = builder.mul("gated", y, _six_gates(builder, y, layer.squeeze))
        y = _conv_bn(builder, "project", y, layer.project, input_scale=1 / 6)
    return builder.add("sum", y, _shortcut(builder, x, layer))


def _shortcut(builder: GraphBuilder, x: Value, layer: MobileBlock) -> Value:
    if layer.block.stride == 2:
        if x.shape[1] % 2:
            # Zeros that count in the mean. torch pads the far edges too, where no window reaches.
            x = builder.pad("shortcut_pad", x, 1, 0)
        x = builder.avg_pool("shortcut_pool", x)
    if layer.shortcut is not None:
        weight = _floats(layer.shortcut.weight).transpose(0, 2, 3, 1)
        x = builder.conv("shortcut", x, weight, np.zeros(weight.shape[0]))
    return x


def _six_gates(builder: GraphBuilder, x: Value, layer: SqueezeExcite) -> Value:
    """Six times the gates, (1, 1, 1, C): hard sigmoid is relu6(z + 3) / 6, and the sixth goes into the next weights."""
    reduce, expand = _linear(layer.reduce), _linear(layer.expand)
    y = builder.mean("squeeze_mean", x, (1, 2))
    y = builder.linear("squeeze_reduce", y, reduce, Activation.RELU)
    return builder.linear("squeeze_expand", y, Linear(expand.weight, expand.bias + 3), Activation.RELU6)


def _linear(layer: nn.Linear | nn.Conv2d) -> Linear:
    weight = _floats(layer.weight)
    bias = np.zeros(len(weight)) if layer.bias is None else _floats(layer.bias)
    return Linear(weight.reshape(len(weight), -1), bias)


def _normalised(builder: GraphBuilder, x: Value, norm: ImageNorm) -> Value:
    """Zero mean and unit variance over the whole image. Two passes: one would lose digits where the mean is large."""
    axes = (1, 2, 3)
    centred = builder.sub("norm_centre", x, builder.mean("norm_mean", x, axes))
    variance = builder.mean("norm_variance", builder.mul("norm_square", centred, centred), axes)
    scale = builder.rsqrt("norm_rsqrt", builder.add("norm_epsilon", variance, np.full((1, 1, 1, 1), norm.eps)))
    return builder.mul("norm_scale", centred, scale)


def _behind_norm(norm: ImageNorm, linear: Linear) -> Linear:
    """A linear that also does the norm's scale and shift."""
    gamma, beta = _doubles(norm.weight), _doubles(norm.bias)
    return Linear(linear.weight * gamma, linear.bias + (linear.weight * beta).sum(-1))


def _attention(builder: GraphBuilder, x: Value, layer: Attention) -> Value:
    side = x.shape[1]
    tokens, heads, values = side * side, layer.heads, layer.heads * layer.value_dim
    query_key, value = _query_key_value(layer)
    y = _normalised(builder, x, layer.norm)

    qk = builder.reshape("query_key_heads", builder.linear("query_key", y, query_key), (1, tokens, 2 * heads, HEAD_DIM))
    q, k = builder.halves("query_key_split", builder.transpose("query_key_order", qk, (0, 2, 1, 3)), axis=1)
    # The norm's shift is already in v here, so the convolution pads zeros around shifted values, as torch does.
    v = builder.linear("value", y, value)
    weight = _floats(layer.values_conv.weight).transpose(1, 2, 3, 0)
    v = builder.depthwise("values_conv", v, weight, np.zeros(values))
    v = builder.transpose(
        "value_order", builder.reshape("value_heads", v, (1, tokens, heads, layer.value_dim)), (0, 2, 1, 3)
    )

    scores = builder.matmul("scores", q, k, transpose_second=True)
    scores = builder.softmax("softmax", builder.add("position_bias", scores, _floats(layer.bias())[None]))
    mixed = builder.transpose("mix_order", builder.matmul("mix", scores, v), (0, 2, 1, 3))
    y = builder.hard_swish("act", builder.reshape("mix_map", mixed, (1, side, side, values)))
    return builder.add("sum", x, builder.linear("project", y, _linear(layer.project)))


def _query_key_value(layer: Attention) -> tuple[Linear, Linear]:
    """q|k as one linear (rows: all heads' q, then all heads' k) and v as another, the norm's affine folded in."""
    rows = _behind_norm(layer.norm, _linear(layer.qkv))
    weight = rows.weight.reshape(layer.heads, 2 * HEAD_DIM + layer.value_dim, -1)
    bias = rows.bias.reshape(layer.heads, -1)
    q, k, v = (slice(0, HEAD_DIM), slice(HEAD_DIM, 2 * HEAD_DIM), slice(2 * HEAD_DIM, None))
    scale = HEAD_DIM**-0.5
    width = weight.shape[-1]
    # A bias of k adds the same to a query's scores for every key, and softmax takes no notice.
    query_key = Linear(
        np.concatenate([weight[:, q] * scale, weight[:, k]]).reshape(-1, width),
        np.concatenate([bias[:, q] * scale, np.zeros_like(bias[:, k])]).reshape(-1),
    )
    return query_key, Linear(weight[:, v].reshape(-1, width), bias[:, v].reshape(-1))


def _feed_forward(builder: GraphBuilder, x: Value, layer: FeedForward) -> Value:
    y = builder.linear("expand", _normalised(builder, x, layer.norm), _behind_norm(layer.norm, _linear(layer.expand)))
    return builder.add("sum", x, builder.linear("project", builder.hard_swish("act", y), _linear(layer.project)))


def _head(builder: GraphBuilder, x: Value, layer: Head) -> Value:
    scale, shift = _scale_and_shift(layer.bn)
    expand = _linear(layer.expand)
    y = builder.linear("expand", x, Linear(expand.weight * scale[:, None], expand.bias * scale + shift))
    y = builder.mean("pool", builder.hard_swish("expand_act", y), (1, 2))
    y = builder.reshape("flat", y, (1, y.shape[3]))
    y = builder.hard_swish("hidden_act", builder.linear("hidden", y, _linear(layer.hidden)))
    return builder.linear("logits", y, _linear(layer.classify))
