"""Whatever a server, a stranger or a library says, what reads it ends in an answer: no bytes can break a loop."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from convq.ipc.messages import is_gone, process_space, report_in
from convq.queue.diagnosis.health import _number, _pairs
from convq.queue.diagnosis.server_versions import known_crashes, parsed
from convq.queue.keys import is_model_name
from convq.queue.producer import _description

TEXTS = st.text() | st.from_regex(r"[0-9.²٣+-]{0,40}")


@given(
    st.binary() | st.none() | st.integers() | st.lists(st.binary()),
    st.sampled_from([b"maxmemory", b"redis_version", b"x"]),
    TEXTS,
)
def test_info_of_any_bytes_is_read_as_pairs_of_text(info: object, name: bytes, value: str) -> None:
    assert all(isinstance(one, str) for pair in _pairs(info).items() for one in pair)
    line = name + b":" + value.encode()
    number = _number(_pairs(line).get(name.decode()))
    assert number is None or number >= 0


@given(TEXTS)
def test_a_version_of_any_text_is_a_row_of_numbers(text: str) -> None:
    assert all(isinstance(number, int) for number in parsed(text))
    known_crashes("redis", text)


@given(st.text() | st.from_regex(r"host\.[0-9a-f]{8}-[0-9]{1,400}-[0-9a-f]{8}\n?", fullmatch=True))
def test_a_lease_of_any_name_is_gone_or_not(name: str) -> None:
    assert is_gone(name) in (True, False)


@given(st.from_regex(r"[0-9]{1,400}", fullmatch=True))
def test_a_process_id_of_any_length_is_looked_for(pid: str) -> None:
    assert is_gone(f"host.{process_space()}-{pid}-0a0b0c0d") in (True, False)


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_what_is_no_report_and_no_description_is_none(line: bytes) -> None:
    assert report_in(line) is None
    said = _description(line)
    assert said is None or isinstance(said, dict)


def test_what_is_nested_without_end_is_none_too() -> None:
    assert report_in(b"[" * 100_000) is None
    assert _description(b'{"a":' * 100_000) is None


@given(st.binary())
def test_only_names_that_a_model_can_have_are_names(name: bytes) -> None:
    wanted = (
        1 <= len(name) <= 64
        and name[:1].isalnum()
        and name.lower() == name
        and all(byte in b"abcdefghijklmnopqrstuvwxyz0123456789_-" for byte in name)
    )
    assert wanted == is_model_name(name)
    assert not is_model_name(name + b"\n")
    assert not is_model_name(b"\xff" + name)


def test_a_report_is_a_report() -> None:
    assert {"event": "ready"} == report_in(b'{"event": "ready"}\n')
