"""What a client or an agent sends is bounded: numbers by their columns, text, lists and objects in length."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

import server.wire
from server.wire.base import MAX_COUNT, MAX_WHOLE, Request, Shared
from server.wire.text import MAX_JSON_CHARS, MAX_JSON_DEPTH, MAX_JSON_NODES, MAX_JSON_TOTAL_CHARS, Conditions, Text
from server.wire.text import bounded_json as json_bounds

LARGEST = {int: MAX_WHOLE, float: 1e12}


def requests() -> list[type[BaseModel]]:
    """All models of requests, and of values in both requests and answers."""
    found: set[type[BaseModel]] = set()
    for module in pkgutil.iter_modules(server.wire.__path__):
        members = vars(importlib.import_module(f"server.wire.{module.name}")).values()
        found |= {value for value in members if inspect.isclass(value) and issubclass(value, Request | Shared)}
    return sorted(found - {Request, Shared}, key=lambda model: model.__name__)


def unbounded(model: type[BaseModel]) -> list[str]:
    return [
        f"{name}: {problem}"
        for name, field in model.model_fields.items()
        for problem in problems(field.annotation, field.metadata)
    ]


def problems(kind: Any, metadata: Sequence[Any]) -> Iterator[str]:  # noqa: ANN401 - any annotation
    """What is not bounded in a type with the metadata of its `Annotated`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from problems(arguments[0], [*metadata, *arguments[1:]])
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from problems(argument, metadata)
    elif kind in (int, float):
        yield from number_problems(kind, metadata)
    elif kind is str or origin in (list, dict) or kind in (list, dict):
        if not is_json(metadata) and not limits(metadata, "max_length"):
            yield f"{kind} has no max_length"
        for argument in arguments:
            # Bounded JSON bounds everything inside, too.
            yield from problems(argument, [item for item in metadata if is_json([item])])
    elif kind is Any:
        if not is_json(metadata):
            yield "Any is not bounded"
    elif inspect.isclass(kind) and issubclass(kind, BaseModel):
        if not issubclass(kind, Request | Shared):
            yield f"{kind.__name__} is no model of requests"
    elif not (origin is Literal or kind in (bool, type(None)) or (inspect.isclass(kind) and issubclass(kind, Enum))):
        yield f"{kind} is a type of which this test does not know the bounds"


def number_problems(kind: type, metadata: Sequence[Any]) -> Iterator[str]:
    low, high = limits(metadata, "ge", "gt"), limits(metadata, "le", "lt")
    if not low or min(low) < -LARGEST[kind]:
        yield f"{kind.__name__} has no lower bound"
    if not high or min(high) > LARGEST[kind]:
        yield f"{kind.__name__} has no upper bound"


def is_json(metadata: Sequence[Any]) -> bool:
    return any(isinstance(item, BeforeValidator) and item.func is json_bounds for item in metadata)


def limits(metadata: Sequence[Any], *names: str) -> list[Any]:
    """The values of these constraints, such as `max_length`."""
    found = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            found += limits(item.metadata, *names)
        elif isinstance(item, StringConstraints | annotated_types.BaseMetadata):
            found += [value for name in names if (value := getattr(item, name, None)) is not None]
    return found


@pytest.mark.parametrize("model", requests(), ids=lambda model: model.__name__)
def test_every_field_of_a_request_is_bounded(model: type[BaseModel]) -> None:
    assert unbounded(model) == []


def test_a_field_without_a_bound_is_noticed() -> None:
    class Loose(Request):
        number: int
        fraction: float | None = Field(default=None, ge=0)
        text: str
        texts: Annotated[list[str], Field(max_length=3)]
        anything: dict[str, Any]
        huge: Annotated[int, Field(ge=0, le=2**64)]
        plain: Text
        conditions: Conditions

    names = {problem.partition(":")[0] for problem in unbounded(Loose)}
    assert names == {"number", "fraction", "text", "texts", "anything", "huge"}


def test_integers_of_integer_columns_are_counts() -> None:
    for model, names in ((server.wire.OpTime, ("node", "count")), (server.wire.Report, ("attempt",))):
        for name in names:
            assert limits(model.model_fields[name].metadata, "le") == [MAX_COUNT]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        nested(MAX_JSON_DEPTH + 1),
        nested(300),
        {"a": [0] * MAX_JSON_NODES},
        {"a": "x" * (MAX_JSON_CHARS + 1)},
        {"a": ["x" * MAX_JSON_CHARS] * (MAX_JSON_TOTAL_CHARS // MAX_JSON_CHARS + 1)},
        {"x" * (MAX_JSON_CHARS + 1): 0},
        *({"a": number} for number in (2**63, -(2**63) - 1, 10**30, 10**400, float("nan"), float("inf"))),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_values_of_any_type_are_bounded(value: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValidationError, match=r"send a|send fewer|send less"):
        TypeAdapter(Conditions).validate_python(value)


def test_what_devices_report_is_within_the_bounds() -> None:
    value = {"cpu_khz": {f"cpu{cpu}": 3_000_000 for cpu in range(256)}, "loadavg": [0.5, 1e300, -(2**63), 2**63 - 1]}
    assert TypeAdapter(Conditions).validate_python(value | nested(MAX_JSON_DEPTH)) == value | nested(MAX_JSON_DEPTH)
