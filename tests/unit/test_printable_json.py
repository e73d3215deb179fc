"""What convq prints as JSON is JSON for every parser: NaN and infinity, which Python would write as words, are null."""

from __future__ import annotations

import json
import logging
import math
from typing import Any, NoReturn

import pytest

from convq.logs import _Json
from convq.printable import json_line

ODD = [math.nan, math.inf, -math.inf]


def strict(text: str) -> Any:
    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("odd", ODD)
def test_numbers_that_json_does_not_know_are_null(odd: float) -> None:
    document = {"a": odd, "b": [1.5, odd, (odd,)], "c": {"d": {"e": odd}}, "label\x1b": "NaN"}
    expected = {"a": None, "b": [1.5, None, [None]], "c": {"d": {"e": None}}, "label\x1b": "NaN"}
    assert expected == strict(json_line(document))
    assert expected == strict(json_line(document, ascii_only=True))


def test_log_lines_are_json_too() -> None:
    record = logging.LogRecord("convq", logging.INFO, __file__, 1, "speed", None, None)
    record.speed = math.nan
    assert "speed" == strict(_Json({}).format(record))["message"]
