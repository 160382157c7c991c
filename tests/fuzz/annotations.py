"""COCO's annotations: what is accepted can be trained on and judged by; the rest is refused in one line."""

from __future__ import annotations

import json
import math

from drumfire.loadgen.annotations import read_annotations
from drumfire.loadgen.errors import UserError
from tests.fuzz.harness import check_line, file


def _seed(segmentation: object) -> bytes:
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2.5, 3, 0], "area": 0.5, "iscrowd": 0}
    document = {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 4, "height": 3}],
        "annotations": [annotation | {"segmentation": segmentation}, annotation | {"id": 2, "iscrowd": 1}],
        "categories": [{"id": 3, "name": "a"}],
    }
    return json.dumps(document).encode()


SEEDS = [
    _seed([[0, 0, 1, 0, 1, 1.5]]),
    _seed({"size": [3, 4], "counts": [5, 4, 3]}),
    _seed({"size": [3, 4], "counts": "543"}),
    b"\xef\xbb\xbf" + _seed([[0, 0, 1, 0, 1, 1.5], [1, 1, 2, 2, 3, 3, 4, 4]]),
]

_FILE = file("annotations.json")


def read(data: bytes) -> None:
    _FILE.write_bytes(data)
    for masks in (False, True):
        try:
            found = read_annotations(_FILE, masks=masks)
        except UserError as error:
            check_line(error)
            continue
        images = {image["id"] for image in found["images"]}
        categories = {category["id"] for category in found["categories"]}
        assert len(images) == len(found["images"]) > 0
        for annotation in found["annotations"]:
            assert annotation["image_id"] in images
            assert annotation["category_id"] in categories
            assert all(map(math.isfinite, (*annotation["bbox"], annotation["area"], annotation["iscrowd"])))
            if masks:
                assert annotation["segmentation"]
