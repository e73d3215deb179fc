"""What a manifest says of detections: presets, what overrides them, and what is refused with why."""

from __future__ import annotations

from typing import Any

import pytest

from convq.answers.detections import describe
from convq.answers.detections.families import FAMILIES, filled

BOX = "x1 y1 x2 y2"


def tables(*columns: str) -> list[dict[str, Any]]:
    return [{"output": f"out{number}", "columns": text} for number, text in enumerate(columns)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_preset_describes_itself_and_names_its_source(family: str) -> None:
    spec = describe({"family": family}, 1 if family in ("scrfd", "yunet", "blazeface", "db") else 80)

    assert family == spec.family
    assert spec.outputs
    assert 0 < spec.min_score < 1
    assert "Source: " in (FAMILIES[family].__doc__ or "")


def test_a_manifest_overrides_its_preset_key_by_key() -> None:
    spec = describe({"family": "scrfd", "min_score": 0.1, "grid": {"per_cell": 3}, "nms": "agnostic"}, 1)

    assert (0.1, 0.4, "agnostic") == (spec.min_score, spec.iou, spec.nms)
    assert spec.grid is not None
    assert (3, (8, 16, 32), "distance") == (spec.grid.per_cell, spec.grid.strides, spec.grid.decode)


def test_units_of_pixels_take_the_grid_of_a_preset_away() -> None:
    assert describe({"family": "yolox"}, 80).grid is not None
    assert describe({"family": "yolox", "units": "pixels"}, 80).grid is None


def test_a_preset_is_made_anew_for_each_model() -> None:
    filled({"family": "yunet"})["tables"].clear()

    assert filled({"family": "yunet"})["tables"]


def test_background_is_a_column_more_than_there_are_labels() -> None:
    assert [91, 4] == [table.columns.width for table in describe({"family": "detr"}, 90).tables]


def test_the_outputs_that_are_read_are_named_once() -> None:
    given = {"tables": tables(f"{BOX} score class masks:8"), "counts": "n", "masks": {"prototypes": "out0"}}

    assert ("out0", "n") == describe(given, 3).outputs


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"family": "yolo99"}, "'yolo99' is not known; expected one of yolo5, yolo8"),
        ({"familly": "yolo8", "tables": tables(f"{BOX} score")}, "familly is not known"),
        ({"tables": tables("x1 y1 x2 score")}, "the columns of a box are x1 x2 y1; expected all of one of"),
        ({"tables": tables("score")}, "the columns of a box are none"),
        ({"tables": tables(f"{BOX} cx cy w h score")}, "expected all of one of"),
        ({"tables": tables(BOX)}, "a column score, or classes"),
        ({"tables": tables(f"{BOX} score classes")}, "a column score, or classes, and not both"),
        ({"tables": tables(f"{BOX} classes class")}, "a column class needs a column score"),
        ({"tables": tables(f"{BOX} score", "score")}, "a word stands in two tables"),
        ({"tables": tables(f"{BOX} score"), "background": "first"}, "background is a column of classes"),
        ({"tables": tables(f"{BOX} score"), "multi_label": True}, "multi_label needs columns classes"),
        ({"tables": tables(f"{BOX} score"), "activation": "softmax"}, "softmax is of classes alone"),
        ({"tables": tables("l t r b score")}, "which needs a grid"),
        ({"tables": tables(f"{BOX} score"), "units": "cells"}, "units = 'cells' and a grid need each other"),
        ({"tables": tables(f"{BOX} score"), "grid": {"decode": "exp"}}, "makes a box of cx cy w h; the columns are x1"),
        ({"tables": tables(f"{BOX} score"), "grid": {"decode": "exp"}, "units": "unit"}, "need each other"),
        ({"tables": tables("l t r b score"), "grid": {"decode": "dfl"}}, "needs bins"),
        ({"tables": tables("cx cy w h score"), "grid": {"decode": "prior"}}, "min_sizes and decode = 'prior'"),
        (
            {"tables": tables("cx cy w h score"), "grid": {"decode": "prior", "min_sizes": [[8]]}},
            "3 strides, but min_sizes for 1",
        ),
        ({"tables": tables("cx cy w h score"), "grid": {"decode": "exp", "strides": []}}, "strides are whole numbers"),
        ({"tables": tables(f"{BOX} score masks:8")}, "masks and prototypes need each other"),
        ({"tables": tables(f"{BOX} score"), "masks": {"prototypes": "p"}}, "masks and prototypes need each other"),
        (
            {"tables": tables(f"{BOX} score keypoints:2x3"), "keypoints": ["nose"]},
            "1 names of keypoints for columns of 2",
        ),
        ({"tables": tables(f"{BOX} score"), "batch": "column"}, "a column batch need each other"),
        ({"tables": tables(f"{BOX} score batch")}, "a column batch need each other"),
        ({"tables": tables(f"{BOX} score"), "batch": "counts"}, "needs counts"),
        ({"tables": [{"columns": f"{BOX} score"}]}, "expected output = NAME"),
        ({"tables": [{"output": "x"}]}, r"\[\[detections.tables\]\]: columns is missing"),
        ({"tables": [{"output": "x", "column": BOX}]}, "column is not known; expected some of axis, columns"),
        ({"family": "yolox", "grid": {"stride": [8]}}, "stride is not known"),
        ({"tables": tables("cx cy w h score"), "grid": {"strides": [8]}}, "decode is missing"),
        ({"tables": tables(f"{BOX} score masks:8"), "masks": {"output": "p"}}, "output is not known"),
        ({"tables": tables(f"{BOX} score"), "prototypes": "p"}, "prototypes is not known"),
        ({"regions": {"threshold": 0.5}}, "output is missing"),
        ({"family": "db", "tables": tables(BOX)}, "regions and tables exclude each other"),
        ({}, "the columns of a box are none"),
    ],
)
def test_what_contradicts_itself_is_refused_in_words(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        describe(given, 3)


def test_axes_are_settled_by_what_the_graph_declares() -> None:
    spec = describe({"family": "yolo8"}, 80)

    assert 1 == spec.bound({"output0": (None, 84, None)}).tables[0].axis
    assert 2 == spec.bound({"output0": (1, 8400, 84)}).tables[0].axis
    with pytest.raises(ValueError, match="both axes fit"):
        spec.bound({"output0": (1, 84, 84)})
    with pytest.raises(ValueError, match=r"output0 has shape \[1, 85, 8400\]; expected 84 columns"):
        spec.bound({"output0": (1, 85, 8400)})
    with pytest.raises(ValueError, match=r"output0 of .* none of the graph's: boxes, scores"):
        spec.bound({"boxes": (1, 2, 3), "scores": (1, 2)})
