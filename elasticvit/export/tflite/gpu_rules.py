"""Which operators LiteRT's GPU delegate takes: what can be said without a GPU.

Facts read in LiteRT 2.3: the parsers that `NewOperationParser` knows (delegates/gpu/common/model_builder.cc) and the
conditions of `CheckGpuDelegateCompatibility` (tools/versioning/gpu_compatibility.cc) on operators that we or peers use.
"""

# fmt: off
TAKEN = frozenset((
    "ABS", "ADD", "ADD_N", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CONCATENATION", "CONV_2D", "COS", "CUMSUM",
    "DENSIFY", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE", "DIV", "EQUAL", "ELU", "EXP", "FLOOR",
    "FLOOR_DIV", "FLOOR_MOD", "FULLY_CONNECTED", "GATHER", "GELU", "GREATER", "GREATER_EQUAL", "HARD_SWISH",
    "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGISTIC", "LSTM", "MAXIMUM", "MAX_POOL_2D",
    "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "ONE_HOT", "PACK", "PAD", "PADV2", "POW", "PRELU",
    "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1",
    "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN",
    "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE",
    "STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK",
))
# fmt: on


def why_not(builtin: str, transposed: bool) -> str | None:
    """Why the delegate leaves an operator, or would get it wrong; None where nothing is known against it."""
    if builtin not in TAKEN:
        return "the delegate has no such operator"
    if builtin == "BATCH_MATMUL" and transposed:
        return "the delegate does not read that an operand is transposed"
    return None
