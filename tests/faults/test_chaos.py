"""`convq chaos`: it finds nothing wrong where nothing is, it would find it where something is, and it cleans up."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from convq.errors import ServiceFailed, SettingsError
from convq.harness.chaos.crowd import Crowd
from convq.harness.chaos.faults import DEFAULT_MIX, Kind, parse_mix, plan
from convq.harness.chaos.ledger import WINDOW_S, Counts, Ledger, Ticket
from convq.harness.chaos.load import Digit
from convq.harness.chaos.trial import KindSummary, Outcome, Terms, check
from convq.queue import Shard
from servers import MARK, left_behind, wait_until

EACH_ONCE = ",".join(f"{kind}=1" for kind in Kind)
LANES = Shard("lenet").streams


class Place:
    """An empty folder to run in, a temporary folder of its own, and a mark on every process that is started there."""

    def __init__(self, root: Path) -> None:
        self.here, self.temporary, self.mark = root / "here", root / "t", uuid.uuid4().hex
        self.here.mkdir()
        self.temporary.mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
        self.environment = clean | {MARK: self.mark, "TMPDIR": str(self.temporary)}

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "convq", "chaos", *flags],
            cwd=self.here,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags: str) -> tuple[int, str, str]:
        process = self.start(*flags)
        try:
            out, errors = process.communicate(timeout=280)
        finally:
            process.kill()
        return process.returncode, out, errors

    def assert_empty(self) -> None:
        wait_until(lambda: not left_behind(self.mark), 20)
        assert [] == list(self.here.iterdir())
        assert [] == list(self.temporary.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- whole runs -----------------------------------------------------------------------------------------------------


def test_every_job_has_one_answer_after_every_kind_of_fault_and_nothing_is_left(place: Place) -> None:
    status, out, errors = place.run("--minutes", "0.5", "--seed", "58", "--lease", "1", "--mix", EACH_ONCE)

    assert (0, "") == (status, errors), out
    assert "seed 58" == out.splitlines()[0]
    for kind in Kind:
        assert re.search(rf"^{kind} +[1-9]", out, re.MULTILINE), f"{kind} never happened:\n{out}"
    last = re.fullmatch(
        r"submitted=(\d+) answered=(\d+) lost=0 duplicated=0 worst_recovery_s=(\d+\.\d+)", out.splitlines()[-1]
    )
    assert last, out
    assert last[1] == last[2]
    assert int(last[1]) > 1000
    assert "undisturbed" in out
    assert not re.search(r"[\x1b\r]", out), "control codes, and no terminal"
    place.assert_empty()


def test_the_figures_come_as_one_document_and_may_be_replayed(place: Place) -> None:
    flags = ("--minutes", "0.05", "--lease", "0.5", "--fsync", "everysec", "--mix", "scripts=1,server=1", "--json")
    status, out, errors = place.run(*flags, "--seed", "3")

    figures: dict[str, Any] = json.loads(out)
    assert (0, "") == (status, errors)
    assert (True, 0, 0) == (figures["clean"], figures["counts"]["lost"], figures["counts"]["duplicated"])
    assert figures["ratio"] == pytest.approx(figures["disturbed_per_s"] / figures["undisturbed_per_s"])
    planned = plan(3, {Kind.SCRIPTS: 1, Kind.SERVER: 1}, 0.5, 3.0)
    assert [fault.kind for fault in planned] == [struck["kind"] for struck in figures["struck"]]
    assert "convq chaos --minutes 0.05 --seed 3 " in figures["replay"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_even_while_a_worker_is_stopped(place: Place, number: signal.Signals) -> None:
    process = place.start("--minutes", "10", "--lease", "20", "--mix", "stop=1", "--seed", "0")
    try:
        assert process.stdout is not None
        assert any("faults=1" in line for line in process.stdout)
        process.send_signal(number)
        _, errors = process.communicate(timeout=280)
    finally:
        process.kill()
        process.communicate()

    assert (130, "") == (process.returncode, errors.strip())
    place.assert_empty()


@pytest.mark.parametrize("mix", ["meteor=1", "worker=many", "worker=0", ""])
def test_a_mix_that_cannot_be_is_wrong_usage(place: Place, mix: str) -> None:
    status, out, errors = place.run("--mix", mix)

    assert 2 == status, out
    assert 1 == len(errors.splitlines())
    assert "worker" in errors


# -- the plan -------------------------------------------------------------------------------------------------------


def test_the_plan_is_the_seed_and_nothing_else() -> None:
    assert plan(7, DEFAULT_MIX, 4.0, 600.0) == plan(7, DEFAULT_MIX, 4.0, 600.0)
    assert plan(7, DEFAULT_MIX, 4.0, 600.0) != plan(8, DEFAULT_MIX, 4.0, 600.0)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = plan(7, DEFAULT_MIX, 4.0, 60.0)

    assert short == plan(7, DEFAULT_MIX, 4.0, 600.0)[: len(short)]


def test_ten_minutes_hold_every_kind_of_the_mix_in_its_share() -> None:
    faults = plan(1, DEFAULT_MIX, 4.0, 600.0)

    assert len(faults) > 100
    counted = {kind: sum(fault.kind is kind for fault in faults) for kind in Kind}
    assert all(
        abs(counted[kind] / len(faults) - share / sum(DEFAULT_MIX.values())) < 0.05
        for kind, share in DEFAULT_MIX.items()
    )
    assert any(not fault.alone for fault in faults)


def test_only_the_kinds_that_a_mix_names_happen() -> None:
    assert {Kind.WORKER: 3, Kind.STOP: 1} == parse_mix("worker=3, stop")
    with pytest.raises(SettingsError, match="meteor"):
        parse_mix("meteor=1")


# -- the ledger: what it would find ------------------------------------------------------------------------------------


def answer(ticket: Ticket, label: str = "7", status: str = "ok", **more: Any) -> bytes:
    return json.dumps({"id": ticket.id, "status": status, "predictions": [{"label": label}], **more}).encode()


def taken(ledger: Ledger, count: int, at_s: float = 0.0) -> list[Ticket]:
    tickets = [ledger.open("7") for _ in range(count)]
    ledger.accept(tickets, [f"{number}-0" for number in range(count)], at_s)
    return tickets


def test_one_answer_to_each_job_is_clean() -> None:
    ledger = Ledger("run")
    ledger.record([answer(ticket) for ticket in taken(ledger, 3)], 1.0)

    assert Counts(3, 3, 0, 0, 0, 0, 0) == ledger.counts()
    assert ledger.counts().clean


def test_an_answer_that_comes_twice_is_found_even_when_the_job_was_forgotten() -> None:
    ledger = Ledger("run")
    first, second = taken(ledger, 2)
    ledger.record([answer(first), answer(second), answer(first)], 1.0)
    ledger.forget([second])
    ledger.record([answer(second)], 60.0)

    assert 2 == ledger.counts().duplicated
    assert [(first.id, "answered twice"), (second.id, "answered twice")] == [(o.id, o.what) for o in ledger.offences]


def test_the_same_bytes_read_again_are_one_answer_and_other_bytes_are_not() -> None:
    ledger = Ledger("run")
    (ticket,) = taken(ledger, 1)
    ledger.record([answer(ticket)], 1.0)
    ledger.record([answer(ticket)], 2.0, again=True)
    assert 0 == ledger.counts().duplicated

    ledger.record([answer(ticket, worker="another")], 3.0, again=True)
    assert 1 == ledger.counts().duplicated


def test_a_job_without_an_answer_is_lost_and_its_recovery_never_ends() -> None:
    ledger = Ledger("run")
    first, second = taken(ledger, 2)
    ledger.strike("worker", 1.0)
    ledger.record([answer(first)], 2.0)

    assert [second] == ledger.write_off(100.0)
    assert (1, False) == (ledger.counts().lost, ledger.counts().clean)
    assert math.inf == ledger.worst_recovery_s()


@pytest.mark.parametrize("bad", [{"label": "3"}, {"status": "error"}])
def test_an_answer_that_is_not_ok_or_belongs_to_another_picture_is_wrong(bad: dict[str, str]) -> None:
    ledger = Ledger("run")
    (ticket,) = taken(ledger, 1)
    ledger.record([answer(ticket, **bad)], 1.0)

    assert (1, 1) == (ledger.counts().answered, ledger.counts().wrong)


def test_an_answer_that_nobody_asked_for_is_wrong() -> None:
    ledger = Ledger("run")
    ledger.record([answer(Ticket("run-7", "7")), answer(Ticket("stranger", "7"))], 1.0)

    assert 2 == ledger.counts().wrong


@pytest.mark.parametrize(("strict", "lost", "rolled_back"), [(True, 2, 0), (False, 1, 1)])
def test_what_a_killed_server_may_forget_is_excused_only_without_fsync_and_only_inside_the_window(
    strict: bool, lost: int, rolled_back: int
) -> None:
    ledger = Ledger("run", strict=strict)
    taken(ledger, 1, at_s=10.0)
    taken(ledger, 1, at_s=10.0 + 2 * WINDOW_S)
    ledger.server_killed(10.0 + 2.5 * WINDOW_S)
    ledger.write_off(100.0)

    assert (lost, rolled_back) == (ledger.counts().lost, ledger.counts().rolled_back)


@pytest.mark.parametrize(("strict", "duplicated", "repeated"), [(True, 1, 0), (False, 0, 1)])
def test_a_commit_that_was_rolled_back_and_came_again_is_excused_only_without_fsync(
    strict: bool, duplicated: int, repeated: int
) -> None:
    ledger = Ledger("run", strict=strict)
    (ticket,) = taken(ledger, 1)
    ledger.record([answer(ticket)], 10.0)
    ledger.server_killed(11.0)
    ledger.record([answer(ticket, attempt=2)], 12.0, again=True)

    assert (duplicated, repeated) == (ledger.counts().duplicated, ledger.counts().repeated)


def test_an_answer_may_be_quicker_than_the_confirmation_of_its_submission() -> None:
    ledger = Ledger("run")
    ticket = ledger.open("7")
    ledger.record([answer(ticket)], 1.0)
    ledger.accept([ticket], ["1-0"], 2.0)

    assert (Counts(1, 1, 0, 0, 0, 0, 0), 0) == (ledger.counts(), ledger.in_flight())


def test_recovery_lasts_until_the_last_job_that_was_in_flight_and_faults_that_meet_are_told_apart() -> None:
    ledger = Ledger("run")
    first, second = taken(ledger, 2)
    alone = ledger.strike("worker", 10.0)
    ledger.record([answer(first)], 10.5)
    ledger.record([answer(second)], 13.0)
    taken(ledger, 1)
    one, other = ledger.strike("stop", 20.0), ledger.strike("server", 21.0)

    assert (3.0, True) == (alone.took_s, alone.alone)
    assert (False, False) == (one.alone, other.alone)


# -- the clients against a server whose only worker is this test ---------------------------------------------------------


@pytest.fixture
def crowd(redis_url: str) -> Iterator[tuple[Crowd, Ledger]]:
    ledger = Ledger("run")
    crowd = Crowd(redis_url, Shard("lenet"), ledger, [Digit("7", b"png", bytes(1024))], quarantine_s=0.1)
    try:
        yield crowd, ledger
    finally:
        crowd.halt()
        crowd.close()


def test_a_worker_that_loses_one_job_and_answers_another_twice_is_found_out(
    crowd: tuple[Crowd, Ledger], redis_url: str
) -> None:
    clients, ledger = crowd
    with redis.Redis.from_url(redis_url) as server:
        for lane in LANES:
            server.xgroup_create(lane, "workers", "0", mkstream=True)
        clients.start()
        wait_until(lambda: ledger.in_flight() > 500)
        clients.submit_no_more()
        clients.halt()
        entries: Any = [(lane, *entry) for lane in LANES for entry in server.xrange(lane)]
        by_inbox = [job for job in entries if b"reply_to" in job[2]]
        lost, twice = by_inbox[0], by_inbox[-1]
        for lane, entry, job in [*entries, twice]:
            if entry == lost[1] and lane == lost[0]:
                continue
            said = answer(Ticket(job[b"id"].decode(), "7"))
            server.rpush(job.get(b"reply_to", b"convq:{lenet}:result:" + job[b"id"]), said)
            server.xdel(lane, entry)
        clients.settle(1.0)
        clients.close_books()
        assert 1 == clients.left()

    counts = ledger.counts()
    assert (counts.submitted - 1, 1, 1, 0) == (counts.answered, counts.lost, counts.duplicated, counts.wrong)
    told = {offence.what: offence for offence in ledger.offences}
    assert (twice[2][b"id"].decode(), lost[2][b"id"].decode()) == (told["answered twice"].id, told["lost"].id)
    assert {"entry": lost[1].decode(), "state": "waiting"} == told["lost"].known


def test_a_broken_promise_ends_with_1_and_the_command_that_replays_it() -> None:
    none = KindSummary("together", 0, 0, None, None)
    counts = Counts(10, 9, 1, 2, 0, 0, 0)
    outcome = Outcome(Terms(7, 60.0), "", counts, 1, (), none, (), 1.0, 1.0, math.inf, (), ())

    with pytest.raises(ServiceFailed, match=r"1 lost; 2 duplicated.*convq chaos --minutes 1 --seed 7 ") as failed:
        check(outcome)
    assert 1 == failed.value.exit_code
    assert "submitted=10 answered=9 lost=1 duplicated=2 worst_recovery_s=inf" == outcome.verdict()
    assert json.loads(json.dumps(outcome.document(), allow_nan=False))["worst_recovery_s"] is None
