"""Rows of a run as CSV, JSON lines or Parquet.  Knows nothing of where the run is from, or who asked."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import orjson

from drumfire.bench.report.rowwise import WORDS, Rows, Values
from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError

_CHUNK = 1 << 16
_GROUP = 1 << 20
"""Rows of a group in Parquet."""
SCHEMA = "1"
"""Of Parquet files: the version of their fields."""


def csv(rows: Rows) -> Iterator[tuple[int, bytes]]:
    """Text with a header, by the numbers of rows in each part; what is absent is empty.

    A field of several values a row is left out.
    """
    names = [field.name for field in rows.fields if not field.several]
    yield 0, ",".join(names).encode() + b"\n"
    for chunk in rows.chunks(_CHUNK):
        columns = [_plain(name, chunk[name]) for name in names]
        # No value has a comma, a quote or the word null in it: they are numbers and WORDS.
        text = orjson.dumps(list(zip(*columns, strict=True)))
        text = text[2:-2].replace(b"],[", b"\n").replace(b"null", b"").replace(b'"', b"")
        yield len(columns[0]), text + b"\n"


def json_lines(rows: Rows) -> Iterator[tuple[int, bytes]]:
    """An object a row, with the numbers of rows in each part."""
    names = [field.name for field in rows.fields]
    for chunk in rows.chunks(_CHUNK):
        columns = [_plain(name, chunk[name]) for name in names]
        objects = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
        yield len(columns[0]), b"\n".join(map(orjson.dumps, objects)) + b"\n"


def check_parquet() -> None:
    """Raise ``UserError`` where there is nothing that writes Parquet."""
    if installation.lacking({"pyarrow": "pyarrow"}):
        raise UserError(f"Parquet needs pyarrow: {installation.command('parquet')}; csv and jsonl need nothing")


def parquet(rows: Rows, file: BinaryIO, done: Callable[[int], object]) -> None:
    """Write the file; ``done`` is told how many more rows are in it.  The result is in the file's metadata."""
    pa, pq = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    about = {"drumfire.schema": SCHEMA, "drumfire.run": rows.run.folder.name}
    if not rows.run.unfinished:
        result = rows.run.result
        about |= {
            "drumfire.started": str(result.get("started") or ""),
            "drumfire.result": orjson.dumps(result).decode(),
        }
    fields = []
    for one in rows.fields:
        kind = pa.dictionary(pa.int8(), pa.string()) if one.name in WORDS else pa.from_numpy_dtype(one.dtype)
        of_list = pa.large_list(kind) if one.several else kind
        fields.append(pa.field(one.name, of_list, metadata={"unit": one.unit} if one.unit else None))
    schema = pa.schema(fields, metadata=about)
    whole = [one.name for one in rows.fields if one.name not in WORDS and not one.several and one.dtype.kind in "iu"]
    coded = {"use_dictionary": list(WORDS), "column_encoding": dict.fromkeys(whole, "DELTA_BINARY_PACKED")}
    with pq.ParquetWriter(file, schema, compression="zstd", **coded) as writer:
        for chunk in rows.chunks(_GROUP):
            arrays = [_array(pa, field, chunk[field.name]) for field in schema]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            done(len(arrays[0]))


def _array(pa: Any, field: Any, found: Values) -> Any:
    if field.name in WORDS:
        return pa.DictionaryArray.from_arrays(pa.array(found.values.astype(np.int8)), WORDS[field.name])
    values = pa.array(found.values, mask=found.absent)
    return values if found.offsets is None else pa.LargeListArray.from_arrays(pa.array(found.offsets), values)


def _plain(name: str, found: Values) -> list[Any]:
    """The values of the rows as Python's own."""
    values: list[Any] = found.values.tolist()
    if name in WORDS:
        return [WORDS[name][code] for code in values]
    if found.offsets is not None:
        at: list[int] = found.offsets.tolist()
        return [values[begin:end] for begin, end in itertools.pairwise(at)]
    if found.absent is not None:
        for row in np.flatnonzero(found.absent).tolist():
            values[row] = None
    return values
