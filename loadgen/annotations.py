"""Annotated pictures in COCO's format: what their file must hold for training and for judging by it.

``images`` (id, file_name, width, height), ``annotations`` (id, image_id, category_id, bbox, area, iscrowd; for masks
also segmentation) and ``categories`` (id).  Other keys are not looked at.  Every value is checked once, as it is read.
Here because training reads it too, which may import of the other packages only such leaf modules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from drumfire.loadgen.errors import UserError, one_line
from drumfire.loadgen.files import read_bytes

Entry = Mapping[str, Any]

_MOST_ID = 2**53
"""Evaluators keep ids as floating-point numbers, which are exact up to here."""
_MOST_SIDE = 2**16
"""Pixels: no JPEG or PNG decoder takes a larger picture."""
_MOST = 1e9
"""Of a coordinate or an area, in pixels."""
_FORM = (
    "images (id, file_name, width, height), annotations (id, image_id, category_id, bbox, area, iscrowd) and "
    "categories (id)"
)
_LEAST_POLYGON = 6
"""Numbers of a polygon: three points."""
_MISSING = object()


def read_annotations(file: Path, *, masks: bool, fetched: bool = True) -> dict[str, list[Entry]]:
    """The file's ``images``, ``annotations`` and ``categories``.

    ``masks``: whether the annotations need a segmentation.  ``fetched``: it can be fetched again; else it is a user's
    own.  Raises ``UserError`` for the first fault: the file is not there, not JSON, or holds a value that it must not.
    """
    again = "fetch it again" if fetched else f"COCO's annotations are an object of {_FORM}"
    try:
        document = json.loads(read_bytes(file, "the file of annotations", may_be_empty=False).decode())
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, too deep, or more digits than Python reads
        raise UserError(f"{file} is not JSON: {one_line(error, 200)}; {again}") from None
    found = _faults(document, masks=masks)
    first = next(found, None)
    if first is not None:
        others = sum(1 for _ in found)
        more = f" (and {others:,} more such faults)" if others else ""
        raise UserError(f"{file}: {first}{more}: correct it{', or fetch the file again' if fetched else f' ({again})'}")
    return {part: document[part] for part in ("images", "annotations", "categories")}


def _faults(document: Any, *, masks: bool) -> Iterator[str]:
    """What is wrong, one line each.  A fault that hides others ends them."""
    if not isinstance(document, dict):
        yield "it is not in COCO's format: it must be an object"
        return
    for part in ("images", "annotations", "categories"):
        entries = document.get(part)
        if not isinstance(entries, list):
            yield f"it is not in COCO's format: {part} {'is missing' if entries is None else 'must be a list'}"
            return
    if not document["images"]:
        yield "it lists no pictures"
    of_images: dict[str, _Rule] = {
        "id": _ID,
        "file_name": (_is_name, "the name of a file"),
        "width": _SIDE,
        "height": _SIDE,
    }
    yield from _of_entries(document["images"], "image", of_images)
    yield from _of_entries(document["categories"], "category", {"id": _ID})
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in _whole(document["images"])}
    rules: dict[str, _Rule] = {
        "id": _ID,
        "image_id": (_one_of(sizes), "the id of an image in the file"),
        "category_id": (
            _one_of({category["id"] for category in _whole(document["categories"])}),
            "the id of a category in the file",
        ),
        "bbox": (_is_box, "four numbers: x, y, and a width and a height of at least 0"),
        "area": (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
        "iscrowd": (lambda value: type(value) in (int, float, bool) and value in (0, 1), "0 or 1"),
    }
    yield from _of_entries(document["annotations"], "annotation", rules)
    if masks:
        for annotation in _whole(document["annotations"]):
            image = annotation.get("image_id")
            wrong = _mask_fault(annotation.get("segmentation"), sizes.get(image) if _is_id(image) else None)
            if wrong:
                yield f"annotation {annotation['id']}: segmentation {wrong}"


_Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and what it must be."""


def _of_entries(entries: Sequence[Any], name: str, rules: Mapping[str, _Rule]) -> Iterator[str]:
    known: set[Any] = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            yield f"{name} number {position} is {shown(entry)}: it must be an object"
            continue
        for key, (is_right, wanted) in rules.items():
            value = entry.get(key, _MISSING)
            if is_right(value):
                continue
            own = entry.get("id")
            which = f"{name} {own}" if _is_id(own) else f"{name} number {position}"
            yield f"{which}: {key} {'is missing' if value is _MISSING else f'is {shown(value)}'}, must be {wanted}"
        if _is_id(own := entry.get("id")):
            if own in known:
                yield f"{name} {own}: duplicate id"
            known.add(own)


def _whole(entries: Sequence[Any]) -> list[Entry]:
    """Those with an id."""
    return [entry for entry in entries if isinstance(entry, dict) and _is_id(entry.get("id"))]


def _is_id(value: Any) -> bool:
    return type(value) is int and -_MOST_ID <= value <= _MOST_ID


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_MOST <= value <= _MOST


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value).name not in ("", "..") and "\0" not in value and _is_text(value)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_box(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(map(_is_number, value)) and min(value[2:]) >= 0


def _one_of(known: Container[int]) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value in known


_ID: _Rule = _is_id, "a whole number"
_SIDE: _Rule = (lambda value: type(value) is int and 0 < value <= _MOST_SIDE), f"a whole number, 1 to {_MOST_SIDE:,}"


def _mask_fault(value: Any, size: tuple[Any, Any] | None) -> str | None:
    """What is wrong with a segmentation: polygons, or run lengths as numbers or as COCO's text."""
    if isinstance(value, list):
        if not value:
            return "is an empty list, must have a polygon"
        for polygon in value:
            right = type(polygon) is list and len(polygon) >= _LEAST_POLYGON and len(polygon) % 2 == 0
            if not right or not all(map(_is_number, polygon)):
                return f"has {shown(polygon)}, must have polygons of at least 3 points, x and y each"
        return None
    if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
        return "is missing" if value is None else f"is {shown(value)}, must be polygons, or size and counts"
    if value["size"] != [*(size or ())]:
        return f"is of the size {shown(value['size'])}, must be of the image's, {[*(size or ())]}"
    counts = value["counts"]
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return f"has the counts {shown(counts)}, must have run lengths"
    if sum(runs) != math.prod(value["size"]):
        return f"covers {sum(runs)} pixels, must cover the image's {math.prod(value['size'])}"
    return None


def _runs(text: str) -> list[int] | None:
    """Run lengths from COCO's text: six bits a character, lowest first; from the third on, less the one before last."""
    runs: list[int] = []
    run = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        run |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                run -= 1 << shift
            runs.append(run + runs[-2] if len(runs) > 2 else run)
            run = shift = 0
    return None if shift else runs
