"""Whether a JSON value has the types that a JSON schema declares.

Reads what other versions saved: a key may be unknown, or missing unless ``whole``, or have a value that is not in its
list.  So of a schema only ``type``, ``properties``, ``patternProperties``, ``additionalProperties``, ``items`` and
``$ref`` count, and of ``enum`` and ``const`` the types of their values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from drumfire.loadgen.errors import printable

Schema = Mapping[str, Any]
_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


def fault(
    value: Any, schema: Schema, root: Schema | None = None, where: str = "", *, whole: bool = False
) -> str | None:
    """The first value within ``value`` of another type, and what it should be; None where all are as declared.

    ``root`` has the definitions, by default ``schema`` itself; ``where`` names ``value``; ``whole``: whether objects
    must have all their ``properties``.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")] | schema
    found, wanted = _kind(value), _kinds(schema)
    if wanted and found not in wanted and not (found == "integer" and "number" in wanted):
        return f"{where or 'it'} is {found}, not {' or '.join(wanted)}"
    if whole and isinstance(value, dict) and (lacking := schema.get("properties", {}).keys() - value.keys()):
        return f"{where or 'it'} lacks {', '.join(sorted(lacking))}"
    inner: list[tuple[str, Any, Any]] = []
    if isinstance(value, dict):
        inner = [(printable(f"{where}.{key}".lstrip(".")), each, _of_key(key, schema)) for key, each in value.items()]
    elif isinstance(value, list):
        inner = [(f"{where}[{at}]", each, schema.get("items")) for at, each in enumerate(value)]
    faults = (fault(each, part, root, name, whole=whole) for name, each, part in inner if isinstance(part, dict))
    return next(filter(None, faults), None)


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), "null")


def _kinds(schema: Schema) -> list[str]:
    """Empty where any will do."""
    if "type" in schema:
        return [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return list(dict.fromkeys(map(_kind, values)))


def _of_key(key: str, schema: Schema) -> Any:
    if key in schema.get("properties", {}):
        return schema["properties"][key]
    patterns = schema.get("patternProperties", {})
    return next((patterns[one] for one in patterns if re.search(one, key)), schema.get("additionalProperties"))
