"""Operator times as an agent reports them, for tests that need made-up ones."""

from server.wire import OpTime


def op_time(tag: str, avg_us: float, median_us: float | None = None) -> OpTime:
    return OpTime(node=0, tag=tag, count=1, total_us=avg_us, avg_us=avg_us, median_us=median_us)
