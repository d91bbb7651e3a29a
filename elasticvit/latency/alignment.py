"""Alignment of the lines of a runtime's operator profile with the operators of a model file.

XNNPACK reports its own operators, in the order of the graph: padding and squares are merged into the next operator, a
1×1 convolution is called fully connected, reshapes appear and disappear (android_bench/README.md, "Their order is the
order of the file"). So the two lists are aligned as sequences are (Needleman–Wunsch): in order, by which operator can
become which line, with gaps on either side, by dynamic programming in a band around the diagonal.
"""

import re
from collections.abc import Sequence

# The operators of a file that a line may come from, by a pattern of its tag; the first match counts.
_TAGS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (pattern, frozenset(names.split()))
    for pattern, names in (
        (r"convolution .*dwconv", "DEPTHWISE_CONV_2D"),
        (r"(depthwise|dwconv)", "DEPTHWISE_CONV_2D"),
        (r"convolution", "CONV_2D DEPTHWISE_CONV_2D"),
        (r"fully connected", "FULLY_CONNECTED CONV_2D"),
        (r"(dynamic fully connected|batch matrix multiply)", "BATCH_MATMUL FULLY_CONNECTED"),
        (r"hard ?swish", "HARD_SWISH"),
        (r"softmax", "SOFTMAX"),
        (r"(average|global average|sum) pooling", "AVERAGE_POOL_2D MEAN"),
        (r"mean", "MEAN"),
        (r"add\b", "ADD"),
        (r"subtract", "SUB"),
        (r"multiply", "MUL"),
        (r"binary elementwise", "ADD SUB MUL SQUARED_DIFFERENCE"),
        (r"squared difference", "SQUARED_DIFFERENCE"),
        (r"square\b", "MUL SQUARE"),
        (r"reciprocal square root", "RSQRT"),
        (r"unary elementwise", "HARD_SWISH RSQRT"),
        (r"transpose", "TRANSPOSE"),
        (r"(static )?reshape", "RESHAPE"),
        (r"(copy|split|even split)", "SPLIT RESHAPE CONCATENATION SLICE"),
        (r"(constant )?pad", "PAD"),
    )
)
_MATCH, _NO_MATCH = 2.0, -1e9
# A line without an operator: the runtime inserts reshapes and copies; the time of any other line is not attributed.
_EXTRA, _EXTRA_MOVE = -3.0, -0.2
_MOVES = re.compile(r"(static )?reshape|copy|transpose", re.IGNORECASE)
# An operator without a line: some are fused by design.
_GONE, _GONE_FUSED = -1.0, -0.1
_FUSED = frozenset({"PAD", "MUL", "RESHAPE"})
_SLACK = 48


def candidates(tag: str) -> frozenset[str]:
    """The builtin operators that a line of an operator profile may come from; a builtin's own name means only that."""
    if re.fullmatch(r"[A-Z0-9_]+", tag):
        return frozenset({tag})
    for pattern, names in _TAGS:
        if re.match(pattern, tag, re.IGNORECASE):
            return names
    return frozenset()


def align(tags: Sequence[str], builtins: Sequence[str]) -> list[int | None]:
    """For every line of an operator profile, in order, the index of its operator, or None if it has none.

    Indices increase. The alignment has the highest score within a band around the diagonal.
    """
    known = {tag: candidates(tag) for tag in set(tags)}
    extra = {tag: _EXTRA_MOVE if _MOVES.match(tag) else _EXTRA for tag in known}
    drift = len(builtins) - len(tags)
    low, high = min(0, drift) - _SLACK, max(0, drift) + _SLACK
    width = high - low + 1
    # best[k] is the best score for the first i tags and j = i + low + k operators; came[i][k] the step that reached it.
    best = [_NO_MATCH] * width
    came: list[bytearray] = []
    for i in range(len(tags) + 1):
        before, best, how = best, [_NO_MATCH] * width, bytearray(width)
        for k in range(width):
            j = i + low + k
            if not 0 <= j <= len(builtins):
                continue
            score, step = (0.0, 0) if i == j == 0 else (_NO_MATCH, 0)
            if i and j and before[k] > _NO_MATCH and builtins[j - 1] in known[tags[i - 1]]:
                score, step = before[k] + _MATCH, 1
            if i and k + 1 < width and before[k + 1] + extra[tags[i - 1]] > score:
                score, step = before[k + 1] + extra[tags[i - 1]], 2
            if j and k:
                gone = best[k - 1] + (_GONE_FUSED if builtins[j - 1] in _FUSED else _GONE)
                if gone > score:
                    score, step = gone, 3
            best[k], how[k] = score, step
        came.append(how)
    return _trace_back(came, len(tags), len(builtins), low)


def _trace_back(came: Sequence[bytearray], i: int, j: int, low: int) -> list[int | None]:
    operators: list[int | None] = [None] * i
    while i or j:
        step = came[i][j - i - low]
        if step == 1:
            i, j = i - 1, j - 1
            operators[i] = j
        elif step == 2:
            i -= 1
        else:
            j -= 1
    return operators
