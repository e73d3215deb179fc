"""One whole run: start, measure undisturbed, disturb, let everything settle, count, stop."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from convq.client import Client
from convq.embedded import Fsync
from convq.errors import ServiceFailed
from convq.harness.chaos.crowd import Crowd
from convq.harness.chaos.faults import DEFAULT_MIX, Kind, plan
from convq.harness.chaos.ledger import Counts, Ledger, Offence, Recovery
from convq.harness.chaos.load import Digit
from convq.harness.chaos.nemesis import Nemesis
from convq.harness.chaos.stage import Stage, wait_for
from convq.printable import without_nan
from convq.queue import Shard

MODEL = "lenet"
TICK_S = 0.02
READY_S = 30.0
WARM_UP_S = 1.0
UNDISTURBED_S = (2.0, 10.0)
SETTLE_S = 30.0
SETTLE_LEASES = 10
STRAY_S = 1.0
"""When nothing is in flight any more, a second answer gets this long to come."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a run. Times in seconds."""

    seed: int
    duration_s: float
    workers: int = 2
    lease_s: float = 4.0
    fsync: Fsync = "always"
    mix: Mapping[Kind, int] = field(default_factory=lambda: DEFAULT_MIX)


@dataclass(frozen=True, slots=True)
class Started:
    """What runs now, in words for people."""

    server: str
    workers: int
    planned: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is. `share`, from 0 to 1, of the time that is disturbed; `oldest_s` is the age of the oldest job."""

    phase: str
    share: float
    counts: Counts
    in_flight: int
    oldest_s: float
    faults: int


@dataclass(frozen=True, slots=True)
class KindSummary:
    """Recoveries of one kind in seconds; infinite where one never ended, None where no fault of it stood alone."""

    kind: str
    struck: int
    alone: int
    median_s: float | None
    worst_s: float | None


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault, as it was: seconds after the disturbance began, jobs in flight then, seconds until all were answered."""

    kind: str
    at_s: float
    alone: bool
    in_flight: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a run found out."""

    terms: Terms
    server: str
    counts: Counts
    faults: int
    kinds: tuple[KindSummary, ...]
    met: KindSummary
    struck: tuple[Struck, ...]
    undisturbed_per_s: float
    disturbed_per_s: float
    worst_recovery_s: float
    offences: tuple[Offence, ...]
    troubles: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether the promise was kept."""
        return self.counts.clean and not self.troubles

    @property
    def ratio(self) -> float:
        """Throughput under faults, as a share of that without."""
        return self.disturbed_per_s / self.undisturbed_per_s if self.undisturbed_per_s else 0.0

    def verdict(self) -> str:
        """The last line."""
        counts = self.counts
        return (
            f"submitted={counts.submitted} answered={counts.answered} lost={counts.lost} "
            f"duplicated={counts.duplicated} worst_recovery_s={self.worst_recovery_s:.2f}"
        )

    def replay(self) -> str:
        """The command that strikes in the same way again."""
        terms = self.terms
        mix = ",".join(f"{kind}={share}" for kind, share in terms.mix.items())
        return (
            f"convq chaos --minutes {terms.duration_s / 60:g} --seed {terms.seed} --workers {terms.workers} "
            f"--lease {terms.lease_s:g} --fsync {terms.fsync} --mix {mix}"
        )

    def document(self) -> dict[str, Any]:
        """The figures, as JSON takes them: what never ended is null."""
        figures = {**asdict(self), "ratio": self.ratio, "clean": self.clean, "replay": self.replay()}
        return {name: without_nan(value) for name, value in figures.items()}


def run(
    terms: Terms,
    digits: Sequence[Digit],
    large: Sequence[Digit],
    models: Path,
    *,
    started: Callable[[Started], None],
    advance: Callable[[Progress], None],
) -> Outcome:
    """Start everything, disturb it, count, stop everything. Raises ConvqError. Main thread only.

    Args:
        terms: what is asked.
        digits: what is submitted, in turn; those that the network reads wrong while all is well are left out.
        large: pictures of many megabytes, for the faults that bring them; the same holds.
        models: the model repository, with lenet.
        started: called once when the service is ready.
        advance: called many times a second.
    """
    ledger = Ledger(f"chaos-{terms.seed}", strict=terms.fsync == "always")
    faults = plan(terms.seed, terms.mix, terms.lease_s, terms.duration_s)
    with (
        _terminable(),
        Stage(models, MODEL, workers=terms.workers, lease_s=terms.lease_s, fsync=terms.fsync) as stage,
    ):
        stage.service.wait_ready()
        started(Started(stage.version, terms.workers, len(faults)))
        shard = Shard(MODEL)
        large = _legible(stage.url, large)
        crowd = Crowd(stage.url, shard, ledger, _legible(stage.url, digits), quarantine_s=2 * terms.lease_s + 1)
        watch = _Watch(ledger, crowd, advance, terms.duration_s)
        crowd.start()
        try:
            undisturbed_per_s = watch.measure(min(max(terms.duration_s / 10, UNDISTURBED_S[0]), UNDISTURBED_S[1]))
            nemesis = Nemesis(faults, stage, ledger, crowd, large, shard)
            try:
                disturbed_per_s = watch.disturb(nemesis)
            finally:
                nemesis.close()
            troubles = [*nemesis.troubles, *_settle(terms, stage, crowd, watch)]
        finally:
            crowd.halt()
            crowd.close()
    rates = undisturbed_per_s, disturbed_per_s
    return _outcome(terms, stage.version, ledger, nemesis, rates, troubles)


def check(outcome: Outcome) -> None:
    """Raise ServiceFailed, with the command to replay it, where the promise was broken."""
    if outcome.clean:
        return
    counts = outcome.counts
    said = [f"{count} {what}" for what in ("lost", "duplicated", "wrong") if (count := getattr(counts, what))]
    raise ServiceFailed(f"{'; '.join([*said, *outcome.troubles])}. To replay: {outcome.replay()}")


def _outcome(
    terms: Terms, server: str, ledger: Ledger, nemesis: Nemesis, rates: tuple[float, float], troubles: Sequence[str]
) -> Outcome:
    """What the books say. `rates`: answers per second undisturbed, and under faults."""
    alone, met = _split(ledger.recoveries)
    return Outcome(
        terms=terms,
        server=server,
        counts=ledger.counts(),
        faults=len(nemesis.struck),
        kinds=tuple(
            _summary(kind, nemesis.struck.count(kind), [one for one in alone if one.kind == kind]) for kind in terms.mix
        ),
        met=_summary("together", len(met), met),
        struck=tuple(
            Struck(one.kind, one.began_s - nemesis.began_s, one.alone, one.in_flight, one.took_s)
            for one in ledger.recoveries
        ),
        undisturbed_per_s=rates[0],
        disturbed_per_s=rates[1],
        worst_recovery_s=ledger.worst_recovery_s(),
        offences=tuple(ledger.offences),
        troubles=tuple(troubles),
    )


def _settle(terms: Terms, stage: Stage, crowd: Crowd, watch: _Watch) -> list[str]:
    """Wait until all is answered and nothing more can come, close the books, send the service away: what went wrong."""
    troubles = []
    stage.service.wait_ready()
    crowd.halt()
    crowd.raise_defect()
    watch.tell("settling", 1.0)
    crowd.settle(SETTLE_S + SETTLE_LEASES * terms.lease_s)
    wait_for(lambda: crowd.left() == 0, STRAY_S)
    time.sleep(STRAY_S)
    if left := crowd.left():
        troubles.append(f"{left} jobs are left in the streams or in the hands of workers")
    crowd.close_books()
    service = stage.service
    service.leave()
    if status := stage.dismiss(service):
        troubles.append(f"at the end the service did not drain: exit {status}, {service.last_words}")
    return troubles


class _Watch:
    """Looks at the run from the main thread: passes the time, reports, and measures."""

    def __init__(self, ledger: Ledger, crowd: Crowd, advance: Callable[[Progress], None], duration_s: float) -> None:
        self._ledger = ledger
        self._crowd = crowd
        self._advance = advance
        self._duration_s = duration_s
        self._faults = 0

    def measure(self, duration_s: float) -> float:
        """Answers per second with nothing in the way."""
        self._pass(WARM_UP_S, "warming up")
        return self._pass(duration_s, "undisturbed")

    def disturb(self, nemesis: Nemesis) -> float:
        """Answers per second from the first fault on until the time is over; what a fault began is brought to its end."""
        rate = self._pass(self._duration_s, "disturbed", nemesis)
        self._crowd.submit_no_more()
        while not nemesis.done:
            self._pass(TICK_S, "disturbed", nemesis)
        return rate

    def tell(self, phase: str, share: float) -> None:
        """Report."""
        waiting = self._ledger.oldest_s()
        oldest_s = time.monotonic() - waiting if waiting else 0.0
        counts = self._ledger.counts()
        self._advance(Progress(phase, share, counts, self._ledger.in_flight(), oldest_s, self._faults))

    def _pass(self, duration_s: float, phase: str, nemesis: Nemesis | None = None) -> float:
        began_s, before = time.monotonic(), self._ledger.counts().answered
        while (spent_s := time.monotonic() - began_s) < duration_s:
            if nemesis is not None:
                nemesis.strike_due()
                self._faults = len(nemesis.struck)
            self._crowd.raise_defect()
            self.tell(phase, spent_s / duration_s if nemesis is not None and duration_s == self._duration_s else 0.0)
            time.sleep(TICK_S)
        return (self._ledger.counts().answered - before) / spent_s


def _legible(url: str, digits: Sequence[Digit]) -> list[Digit]:
    """Those that the network reads right: any other answer to them is then the answer to another job."""
    with Client(url, model=MODEL) as client:
        results = client.map([digit.png for digit in digits], timeout=READY_S)
        return [
            digit for digit, result in zip(digits, results, strict=True) if result.ok and result.label == digit.label
        ]


def _split(recoveries: Sequence[Recovery]) -> tuple[list[Recovery], list[Recovery]]:
    return [one for one in recoveries if one.alone], [one for one in recoveries if not one.alone]


def _summary(kind: str, struck: int, recoveries: Sequence[Recovery]) -> KindSummary:
    took = [one.took_s for one in recoveries]
    return KindSummary(kind, struck, len(took), statistics.median(took) if took else None, max(took) if took else None)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that nothing is left running or lying about."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
