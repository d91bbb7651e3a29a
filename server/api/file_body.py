"""A file in the body of a request, piece by piece: the body itself, or the part `file` of a form.

The framework's own reader of forms first writes the whole file to the machine's temporary folder.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from server.errors import BadValue

PIECE_BYTES = 1 << 18
MAX_PARTS = 11
MAX_HEADER_BYTES = 8192
NO_FILE = 'the form has no file: send the .tflite as its part "file"'
UNREADABLE = "the body cannot be read: send a well-formed form"


async def file_bytes(request: Request) -> AsyncIterator[bytes]:
    """The bytes of the file as they arrive. Raises BadValue for a form that is not well-formed or has no file."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        async for chunk in request.stream():
            yield chunk
        return
    if b"boundary" not in options:
        raise BadValue(UNREADABLE)
    form = FormFile(options[b"boundary"])
    async for chunk in request.stream():
        for piece in form.feed(chunk):
            yield piece
    form.finish()


async def pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces worth a write, whatever the size of the chunks."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if len(held) >= PIECE_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


class FormFile:
    """Finds the bytes of the part `file` in a form; other parts, of which there may be ten, are dropped."""

    def __init__(self, boundary: bytes) -> None:
        self._found: list[bytes] = []
        self._parts = 0
        self._files = 0
        self._in_file = False
        self._ended = False
        self._name, self._value, self._disposition = b"", b"", b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_name,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_data,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise BadValue(UNREADABLE) from error

    def feed(self, chunk: bytes) -> list[bytes]:
        """The file's bytes in the next chunk of the body. Raises BadValue."""
        self._found = []
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadValue(UNREADABLE) from error
        return self._found

    def finish(self) -> None:
        """Raises BadValue when the form is cut off or had no file."""
        if not self._ended:
            raise BadValue(UNREADABLE)
        if not self._files:
            raise BadValue(NO_FILE)

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadValue(f"the form has more than {MAX_PARTS} parts: send the file alone")
        self._name, self._value, self._disposition, self._in_file = b"", b"", b"", False

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name = _bounded(self._name + data[start:end])

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value = _bounded(self._value + data[start:end])

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._in_file = options.get(b"name") == b"file" and b"filename" in options
        self._files += self._in_file
        if self._files > 1:
            raise BadValue("the form has more than one file: upload them one by one")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._found.append(data[start:end])

    def _end(self) -> None:
        self._ended = True


def _bounded(header: bytes) -> bytes:
    if len(header) > MAX_HEADER_BYTES:
        raise BadValue(UNREADABLE)
    return header
