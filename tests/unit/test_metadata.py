"""What exporters wrote beside a graph: read as literals and within bounds, whatever stands there."""

from __future__ import annotations

import ast
import json
import random
import sys
import time

import pytest

from convq.importer.metadata.exporters import told_by
from convq.importer.metadata.literals import MOST_BYTES, literal
from convq.importer.metadata.told import NOTHING
from convq.repository.files import labels_of
from convq.repository.onnx_metadata import MOST_METADATA_BYTES, metadata_of
from exported import with_metadata
from onnx_models import identity

ULTRALYTICS = {"task": "detect", "names": "{0: 'a', 1: 'b'}", "stride": "32", "imgsz": "[640, 480]"}


def invented(random_one: random.Random, depth: int = 0) -> object:
    """A value as literals have them."""
    texts = ["", "it's", '0:"0"', "a\\b", "ünï", "new\nline", "\x00\x1b", "tab\t", "'\"", "{[(,:"]
    plain = [None, True, False, 0, -7, 3.25, 1e-9, -1.5e300, *texts]
    if depth == 3 or random_one.random() < 0.4:
        return random_one.choice(plain)
    inner = [invented(random_one, depth + 1) for _ in range(random_one.randrange(4))]
    keys = random_one.sample([*range(5), *texts[:5]], len(inner))
    return random_one.choice([inner, dict(zip(keys, inner, strict=True)), tuple(inner)])


def as_lists(value: object) -> object:
    if isinstance(value, tuple | list):
        return [as_lists(one) for one in value]
    return {key: as_lists(one) for key, one in value.items()} if isinstance(value, dict) else value


def test_literals_are_read_as_python_reads_them() -> None:
    seeds = random.Random(3)
    for _ in range(300):
        text = repr(invented(seeds))
        assert as_lists(ast.literal_eval(text)) == literal(text), text


def test_literals_of_json_are_read_too() -> None:
    value = {"0": "a", "1": ["b", None, True, False, 1.5]}

    assert value == literal(json.dumps(value))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "{",
            "{0",
            "{0:",
            "{0:'a'",
            "{0:'a',,}",
            "[1 2]",
            "[1,,2]",
            "(",
            "'",
            "'a",
            "'a\n'",
            '"\\"',
            "}",
            "{}}",
        ),
        *(
            "a",
            "b'a'",
            "f'a'",
            "1_000",
            "0x10",
            "nan",
            "inf",
            "--1",
            "+-1",
            "1+1",
            "...",
            "lambda: 0",
            "[x for x in y]",
        ),
        *(
            "__import__('os')",
            "{**{}}",
            "[*[]]",
            "{1, 2}",
            "print",
            "True()",
            "'a' 'b'",
            "{[]: 1}",
            "{{}: 1}",
            "\0",
            "﷽",
        ),
        *("(" * 60_000, "[" * 60_000, "{1:" * 20_000, "-" * 60_000, "'" * 60_001, "\\" * 60_000, "[[[[[[1]]]]]]"),
        *("x" * (MOST_BYTES + 1), "ü" * (MOST_BYTES // 2 + 1), "[" + "0," * 30_000 + "]"),
    ],
    ids=lambda text: f"{text[:12]}…{len(text)}",
)
def test_what_is_no_literal_is_refused_at_once(text: str) -> None:
    began_s, depth = time.process_time(), sys.getrecursionlimit()

    with pytest.raises(ValueError, match=r"is no literal|is nested|has more than|holds more than"):
        literal(text)

    assert depth == sys.getrecursionlimit()
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("{0: 'person', 1: 'dog'}", ("person", "dog")),
        ("{0: '0:\"0\"', 1: '1:\"1\"'}", ('0:"0"', '1:"1"')),
        ("{1: 'b', 0: 'a'}", ("a", "b")),
        ("{'0': 'a', '1': 'b'}", ("a", "b")),
        ("['a', 'b']", ("a", "b")),
        ("('a',)", ("a",)),
        ("{0: 'a\\nb', 1: ' '}", ("a?b", "#1")),
        ("{0: '\\x1b[31mred', 1: '\\u202eabc'}", ("?[31mred", "?abc")),
        ("{0: 5, 1: 'b'}", ("5", "b")),
        ("{0: '\ufeff'}", ("?",)),
        (f"{{0: '{'x' * 3000}'}}", ("x" * 1000,)),
        ("{0: 'a', 2: 'c'}", ()),
        ("{-1: 'a'}", ()),
        ("{0: None}", ()),
        ("{}", ()),
        ("[]", ()),
        ("7", ()),
        ("'ab'", ()),
        ("{0: 'a' 1: 'b'}", ()),
    ],
)
def test_names_are_one_line_each_or_none_at_all(names: str, expected: tuple[str, ...]) -> None:
    told = told_by({**ULTRALYTICS, "names": names})

    assert expected == tuple(told.names)
    assert bool(expected) != ("names" in dict(told.ignored))
    if expected:
        assert expected == labels_of("".join(f"{one}\n" for one in told.names).encode(), __file__)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("stride", "32", "stride", 32),
        ("stride", "[8, 16, 64]", "stride", 64),
        ("stride", "32.0", "stride", 32),
        ("imgsz", "[640, 480]", "size", (640, 480)),
        ("imgsz", "640", "size", (640, 640)),
        ("channels", "1", "channels", 1),
        ("end2end", "True", "end_to_end", True),
        ("args", "{'nms': True}", "end_to_end", True),
        ("args", "{'nms': 'True'}", "end_to_end", False),
        *[
            ("stride", value, "stride", None)
            for value in ("-32", "0", "1.5", "1e999", "True", "[]", "[-8]", "['a']", "{}", "x")
        ],
        *[
            ("imgsz", value, "size", None)
            for value in ("[0, 1]", "[640]", "[1, 2, 3]", "[8192, 8192]", "9999999999", "None")
        ],
        *[("channels", value, "channels", None) for value in ("0", "5", "[3]", "'3'")],
    ],
)
def test_numbers_are_taken_within_bounds(key: str, value: str, field: str, expected: object) -> None:
    told = told_by({**ULTRALYTICS, key: value})

    assert expected == getattr(told, field)
    assert (expected is None) == (key in dict(told.ignored))


@pytest.mark.parametrize(
    "shape", ["[17]", "17", "[0, 3]", "[17, 4]", "[17, 1]", "[1e9, 3]", "['17', '3']", "{17: 3}", "(((", "None"]
)
def test_keypoints_of_no_sense_are_left_out(shape: str) -> None:
    told = told_by({**ULTRALYTICS, "task": "pose", "kpt_shape": shape})

    assert told.keypoints is None
    assert "kpt_shape" in dict(told.ignored)


def test_names_of_keypoints_belong_to_their_number() -> None:
    said = {**ULTRALYTICS, "task": "pose", "kpt_shape": "[2, 3]"}

    assert ("tip", "end") == tuple(told_by({**said, "kpt_names": "{0: ['tip', 'end']}"}).keypoint_names)
    assert () == tuple(told_by({**said, "kpt_names": "{0: ['tip']}"}).keypoint_names)


def test_an_alphabet_keeps_its_blanks() -> None:
    assert ("a", " ", "\u3000", "字") == tuple(told_by({"character": "a\n \n\u3000\n字\n"}).names)


def test_a_licence_alone_is_told() -> None:
    assert ("MIT", "") == (told_by({"license": "MIT"}).licence, told_by({"license": "MIT"}).exporter)
    assert NOTHING == told_by({"epoch": "7"})


def test_metadata_are_read_from_the_file_and_within_bounds() -> None:
    said = {"names": "{0: 'ü'}", "": "empty", "empty": "", "large": "x" * (MOST_METADATA_BYTES + 10)}
    model = with_metadata(identity(["n", 3]), said)

    assert {**said, "large": "x" * MOST_METADATA_BYTES} == metadata_of(model)
    assert {} == metadata_of(identity(["n", 3]))
    assert isinstance(metadata_of(model[:-7]), dict)
    assert {} == metadata_of(b"\x72")
    many = with_metadata(identity(["n", 3]), {f"key {n}": "x" for n in range(1000)})
    assert 256 == len(metadata_of(many))
