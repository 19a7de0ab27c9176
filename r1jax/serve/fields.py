"""A JSON body field by field: a wrong type or range is a 400 that names the field, and a field that
nobody asks for is ignored."""

import json
import math
from collections.abc import Mapping
from typing import Any

from r1jax.serve.errors import bad


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a body."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise bad(None, "the body is not UTF-8 text") from None
    except RecursionError:
        raise bad(None, "the body is nested too deeply") from None
    except ValueError as error:
        raise bad(None, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad(None, f"the body must be a JSON object, got {kind(value)}")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def kind(value: Any) -> str:
    """A value's JSON type."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", dict: "an object", list: "an array"}
    return names.get(type(value), "a number")


class Fields:
    """Of an object, whose own name is `prefix`. null is as if the field were not there."""

    def __init__(self, values: Mapping[str, Any], prefix: str = ""):
        self._values, self._prefix = values, prefix

    def name(self, field: str) -> str:
        return f"{self._prefix}.{field}" if self._prefix else field

    def has(self, field: str) -> bool:
        return self._values.get(field) is not None

    def any(self, field: str) -> Any:
        return self._values.get(field)

    def _typed(self, field: str, types: type | tuple[type, ...], wanted: str) -> Any:
        value = self._values.get(field)
        own = isinstance(value, types) and (types is bool or not isinstance(value, bool))
        if value is None or own:
            return value
        raise bad(self.name(field), f"{self.name(field)} must be {wanted}, got {kind(value)}")

    def boolean(self, field: str) -> bool:
        return bool(self._typed(field, bool, "true or false"))

    def text(self, field: str) -> str | None:
        return self._typed(field, str, "a string")

    def one_of(self, field: str, known: tuple[str, ...]) -> str | None:
        value = self.text(field)
        if value is not None and value not in known:
            raise bad(
                self.name(field),
                f"{self.name(field)} must be one of {', '.join(known)}, got {value!r:.40}",
            )
        return value

    def number(self, field: str, least: float, most: float) -> float | None:
        value = self._typed(field, (int, float), "a number")
        if value is None:
            return None
        try:
            inside = math.isfinite(value) and least <= value <= most
        except OverflowError:  # an integer beyond what a float holds
            inside = False
        if not inside:
            said = f"{self.name(field)} must lie between {least:g} and {most:g}, got {value!r:.40}"
            raise bad(self.name(field), said)
        return float(value)

    def integer(self, field: str, least: int, most: int | None = None) -> int | None:
        value = self._typed(field, (int, float), "an integer")
        if value is None:
            return None
        if isinstance(value, float) and not value.is_integer():
            raise bad(self.name(field), f"{self.name(field)} must be an integer, got {value!r:.40}")
        value = int(value)
        if value < least or (most is not None and value > most):
            span = f"at least {least}" if most is None else f"between {least} and {most}"
            said = f"{self.name(field)} must be {span}, got {str(value)[:40]}"
            raise bad(self.name(field), said)
        return value

    def object(self, field: str) -> "Fields | None":
        value = self._typed(field, dict, "an object")
        return None if value is None else Fields(value, self.name(field))

    def array(self, field: str) -> list[Any] | None:
        return self._typed(field, list, "an array")
