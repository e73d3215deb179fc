"""How many jobs share a batch for what comes of it, who waits for room, and in which portions documents are made."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convq.engine import postprocess
from convq.engine.engine import Engine, Prepared
from convq.engine.room import fitting, taken_bytes
from convq.ipc.allowance import DEFAULT_BYTES, MIB, Allowance
from convq.ipc.crash_marks import CrashMark
from convq.protocol import decode_result
from convq.queue import PORTION_BYTES, Completion, Lease, Receiver
from convq.worker.admission.memory import Memory
from convq.worker.postprocessor import BatchResult, Postprocessor
from convq.worker.ticket import Ticket
from onnx_models import FLOAT, graph, model_folder
from servers import wait_until

PLANES = 16


def planes(side: int | None, outputs: int = 1) -> bytes:
    """One plane in, the same 16 times out, under as many names."""
    sides = ["h", "w"] if side is None else [side, side]
    names = [f"y{i}" for i in range(outputs)]
    nodes = [("Mul", ["x", "ones"], [name]) for name in names]
    ends = [("x", FLOAT, ["n", 1, *sides])], [(name, FLOAT, ["n", PLANES, *sides]) for name in names]
    return graph(nodes, *ends, {"ones": np.ones((1, PLANES, 1, 1), dtype=np.float32)})


def warm(folder: Path, model: bytes, together_bytes: int, more: str = "") -> Engine:
    engine = Engine.load(model_folder(folder, '[input]\ncolor = "none"\n' + more, model), 1)
    engine.warm_up(together_bytes=together_bytes)
    return engine


def memory(planned: int = DEFAULT_BYTES) -> Memory:
    return Memory(Allowance(planned, planned), 1, 0)


@pytest.mark.parametrize(
    ("job_bytes", "largest", "expected"),
    [(0, 64, 64), (1, 64, 64), (3 * MIB, 64, 8), (24 * MIB, 64, 1), (200 * MIB, 64, 1), (3 * MIB, 4, 4), (7, 1, 1)],
)
def test_as_many_jobs_share_a_batch_as_their_outputs_and_documents_fit(
    job_bytes: int, largest: int, expected: int
) -> None:
    fits = fitting(job_bytes, largest, 60 * MIB)

    assert expected == fits
    assert fits == 1 or taken_bytes(job_bytes, fits) <= 60 * MIB


def test_fixed_outputs_make_max_batch_smaller_before_the_largest_batch_is_tried(tmp_path: Path) -> None:
    side = 64
    job_bytes = PLANES * side * side * 4
    largest_run: list[int] = []
    folder = model_folder(tmp_path / "m", '[input]\ncolor = "none"\n', planes(side))
    engine = Engine.load(folder, 1)
    run = engine.run

    def noted(inputs: Sequence[Prepared], wanted: Collection[str] | None = None) -> dict[str, Any]:
        largest_run.append(len(inputs))
        return run(inputs, wanted)

    engine.run = noted  # type: ignore[method-assign]

    engine.warm_up(together_bytes=taken_bytes(job_bytes, 5))

    assert 5 == engine.max_batch == max(largest_run)
    assert engine.remark.startswith("at most 5 jobs share a batch instead of 64: the outputs of one take 262,144 bytes")
    assert 5 == engine.describe()["limits"]["max_batch"]  # type: ignore[index]
    assert (job_bytes, True) == engine.output_bytes((1, side, side), ())


def test_outputs_that_have_room_change_nothing(tmp_path: Path) -> None:
    engine = warm(tmp_path / "m", planes(8), 60 * MIB)

    assert (64, "") == (engine.max_batch, engine.remark)


def test_outputs_of_free_sides_are_known_once_they_were_seen_and_guessed_too_large_before(tmp_path: Path) -> None:
    engine = warm(tmp_path / "m", planes(None, outputs=2), 60 * MIB)
    seen = engine.output_bytes((1, 224, 224), ())
    guessed, is_known = engine.output_bytes((1, 448, 448), ())
    input_ = Prepared(np.zeros((1, 448, 448), dtype=np.float32), (1, 448, 448))

    engine.run([input_] * 2, ())

    assert 64 == engine.max_batch
    assert (2 * PLANES * 224 * 224 * 4, True) == seen
    assert not is_known
    assert (2 * PLANES * 448 * 448 * 4, True) == engine.output_bytes((1, 448, 448), ())
    assert guessed >= 2 * PLANES * 448 * 448 * 4


def test_shapes_that_clients_choose_are_not_remembered_for_ever(tmp_path: Path) -> None:
    engine = warm(tmp_path / "m", planes(None), 60 * MIB)
    for side in range(1, 400):
        engine.run([Prepared(np.zeros((1, 1, side), dtype=np.float32), (1, 1, side))], ())

    assert engine.output_bytes((1, 224, 224), ())[1]
    assert not engine.output_bytes((1, 1, 1), ())[1]
    assert engine.output_bytes((1, 1, 399), ())[1]


def test_batches_wait_for_room_in_turn_and_a_single_one_may_be_larger() -> None:
    room = memory()
    large, small = room.hold(10 * room.together_bytes), []
    order: list[str] = []

    def hold(name: str, size: int) -> None:
        small.append(room.hold(size))
        order.append(name)

    threads = []
    for name, size in (("first", 2 * room.together_bytes), ("second", 2 * MIB)):
        threads.append(threading.Thread(target=hold, args=(name, size)))
        threads[-1].start()
        wait_until(lambda: len(threads) == len(room._waiting))

    assert 0 == room.hold(MIB - 1)  # what is small waits for nobody
    assert [] == order
    room.let_go(large)
    wait_until(lambda: order == ["first"])
    room.let_go(small[0])
    for thread in threads:
        thread.join()
    room.let_go(small[1])

    assert ["first", "second"] == order
    assert 0 == room._held_bytes


class Noted(CrashMark):
    """A mark that remembers what it was set to."""

    def __init__(self) -> None:
        super().__init__(memoryview(bytearray(1 << 16)))
        self.was: list[bytes] = []

    def set(self, names: bytes) -> None:
        self.was.append(names)
        super().set(names)


def ticket(number: int, *flat: bytes) -> Ticket:
    job = Receiver("convq:{m}:inbox:").receive(b"%d-0" % (number + 1), (b"image", b"x", *flat), lane=1, attempt=1)
    return Ticket(job, Lease("w"), time.perf_counter(), queue_s=0.0)


def answered(engine: Engine, outputs: dict[str, Any], *flat: bytes) -> tuple[Noted, list[list[Completion]]]:
    """The portions of one batch, and the marks that stood while they were made."""
    mark = Noted()
    answerer = Postprocessor("m", "w", mark)
    size = len(next(iter(outputs.values())))
    whole = BatchResult([ticket(i, *flat) for i in range(size)], outputs, engine=engine, size=size)
    return mark, [answerer.answer(part) for part in answerer.portions(whole)]


def test_documents_are_made_in_portions_of_their_order_each_under_a_mark_of_its_own(tmp_path: Path) -> None:
    engine = warm(tmp_path / "m", planes(None), 60 * MIB)
    raw = np.arange(10, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, PLANES, 200, 200), dtype=np.float32)

    mark, portions = answered(engine, {"y0": raw})

    results = [decode_result(one.document) for portion in portions for one in portion]
    assert [2] * 5 == [len(portion) for portion in portions]  # of 3.4 MB each
    assert [b"1:1-0 1:2-0", b"1:3-0 1:4-0"] == mark.was[:2]
    assert [float(i) for i in range(10)] == [result.output("y0").array().max() for result in results]
    assert {10} == {result.batch for result in results}
    assert not mark.since_s


def test_long_rankings_are_made_in_portions_too(tmp_path: Path) -> None:
    count, size = 20_000, 24
    y = graph(
        [("Mul", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n", 1])],
        [("y", FLOAT, ["n", count])],
        {"w": np.arange(count, dtype=np.float32).reshape(1, count) / count},
    )
    folder = model_folder(
        tmp_path / "m",
        '[input]\ncolor = "none"\n[[outputs]]\nname = "y"\nmeaning = "classes"\nlabels = "labels.txt"\n',
        y,
    )
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(count)))
    engine = Engine.load(folder, 1)
    engine.warm_up()
    raw = np.tile(np.arange(count, dtype=np.float32), (size, 1))

    _, few = answered(engine, {"y": raw}, b"top_k", b"5")
    _, many = answered(engine, {"y": raw}, b"top_k", b"20000")

    assert [size] == [len(portion) for portion in few]
    assert size == sum(map(len, many))
    assert len(many) > 1
    for portion in many:
        assert sum(len(one.document) for one in portion) <= PORTION_BYTES
    assert count == len(decode_result(many[-1][-1].document).predictions or ())


def test_an_answer_beyond_the_bound_is_refused_for_who_asked_for_it_alone_and_blames_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, "MAX_ANSWER_BYTES", 3 * 100)
    engine = warm(tmp_path / "m", planes(None, outputs=2), 60 * MIB)
    raw = np.zeros((2, 25, 1, 2), dtype=np.float32)
    both, one = ticket(0), ticket(1, b"outputs", b"y1")
    answers = BatchResult([both, one], {"y0": raw, "y1": raw}, engine=engine, size=2)

    refused, fine = (decode_result(made.document) for made in Postprocessor("m", "w", Noted()).answer(answers))

    assert refused.error is not None
    assert "model_error" == refused.error.code
    assert "have 400 bytes; a result holds at most 300" in refused.error.message
    assert both.blameless
    assert "ok" == fine.status
