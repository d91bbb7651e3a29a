"""Serialised answers by their entity tag, bounded in bytes; the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

ENTRY_BYTES = 300  # what an entry takes beside its content


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON of a thing and its entity tag. What is finished does not change any more."""

    content: bytes
    etag: str
    is_finished: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.content) + ENTRY_BYTES


class AnswerCache:
    """For one thread, the event loop's."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self.size_bytes = 0

    def get(self, etag: str) -> Answer | None:
        answer = self._kept.get(etag)
        if answer is not None:
            self._kept.move_to_end(etag)
        return answer

    def put(self, answer: Answer) -> None:
        """Keep it, unless it alone would fill a good part of the cache."""
        if answer.size_bytes * 4 > self._max_bytes:
            return
        if (former := self._kept.pop(answer.etag, None)) is not None:
            self.size_bytes -= former.size_bytes
        self._kept[answer.etag] = answer
        self.size_bytes += answer.size_bytes
        while self.size_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.size_bytes -= oldest.size_bytes
