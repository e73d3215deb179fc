"""`convq chaos`: shows on the terminal what `convq.harness.chaos` does and counts."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from convq.cli.digits import encode, read_sample
from convq.cli.display.output import new_console, print_json, print_table
from convq.harness.chaos.faults import DEFAULT_MIX, parse_mix
from convq.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from convq.harness.chaos.load import Digit
    from convq.harness.chaos.trial import Outcome, Progress, Started

REDRAW_S = 0.2
LINE_EVERY_S = 5.0
INPUT_SIDE = 32
DIGITS = 300
LARGE_DIGITS = 3
ENLARGED = 140
"""Times as wide and as high: 28 pixels become 3,920, and a file has 15 MB."""
MIX = ",".join(f"{kind}={share}" for kind, share in DEFAULT_MIX.items())


@click.command()
@click.option(
    "--minutes",
    metavar="N",
    type=click.FloatRange(min=0.05, max=100_000),
    default=1.0,
    show_default=True,
    help="How long it is disturbed; fractions are fine.",
)
@click.option("--seed", metavar="S", type=click.IntRange(min=0), help="Strike as in the run that printed this seed.")
@click.option(
    "--workers", metavar="N", type=click.IntRange(1, 64), default=2, show_default=True, help="Workers of the service."
)
@click.option(
    "--lease",
    metavar="S",
    type=click.FloatRange(0.5, 60),
    default=4.0,
    show_default=True,
    help="Seconds after which a silent worker is dead.",
)
@click.option("--mix", metavar="KIND=SHARE,…", default=MIX, show_default=True, help="How often each kind of fault.")
@click.option(
    "--fsync",
    type=click.Choice(["always", "everysec"]),
    default="always",
    show_default=True,
    help="When the server writes to disk. With everysec a killed server may forget its last 2 s: what is lost or repeated "
    "inside them is counted apart.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document with every figure, at the end.")
def chaos(*, minutes: float, seed: int | None, workers: int, lease: float, mix: str, fsync: str, as_json: bool) -> None:
    """Kill it and see: no job lost, none answered twice, whatever dies on the way.

    Starts a server and a service of its own, keeps about a thousand jobs in flight, measures how fast that goes, and then
    kills and stops at random what serves them. A ledger knows every job: at the end each must have exactly one right
    answer, or the exit code is 1 and the first offenders are listed. Nothing is left running, nothing is written outside
    temporary folders, no other server is touched.

    \b
    worker       kill -9 of a worker, its supervisor lives
    stop         SIGSTOP of a worker for half a lease to three, then SIGCONT
    service      kill -9 of the whole service, started again
    server       kill -9 of the server, started again on its data
    connections  CLIENT KILL of some of all connections
    scripts      SCRIPT FLUSH
    guest        a second service joins and leaves by SIGTERM
    pictures     pictures of 15 MB come at once, among the others
    log          nobody reads the service's log, and damaged pictures fill it
    keys         strange bytes in convq's own keys, for a while

    The recovery of a fault is the time from it until all jobs that were in flight are answered. The seed decides which
    faults come when; the machine decides what they meet.

    \b
    convq chaos --minutes 3
    convq chaos --minutes 0.5 --seed 7 --mix worker=3,server=1 --fsync everysec
    """
    from convq.harness.chaos.trial import Terms, check, run  # noqa: PLC0415 - not needed for --help
    from convq.repository.model_folders import default_root  # noqa: PLC0415

    console = new_console(quiet=as_json, soft_wrap=True)
    terms = Terms(
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        duration_s=minutes * 60,
        workers=workers,
        lease_s=lease,
        fsync="always" if fsync == "always" else "everysec",
        mix=parse_mix(mix),
    )
    console.print(f"seed {terms.seed}")
    root = default_root()
    with _live(console) as advance:
        outcome = run(
            terms,
            _digits(root),
            _large_digits(root),
            root,
            started=lambda facts: _greet(console, facts),
            advance=advance,
        )
    if as_json:
        print_json([outcome.document()])
    else:
        _report(console, outcome)
    check(outcome)


def _digits(root: Any) -> list[Digit]:
    """Digits that the network reads right, each as a picture and as a tensor of the network's input."""
    from convq.harness.chaos.load import Digit  # noqa: PLC0415 - heavy

    images, labels = read_sample(root / "lenet" / "sample")
    return [Digit(label, encode(rows), _padded(rows)) for rows, label in zip(images[:DIGITS], labels, strict=False)]


def _large_digits(root: Any) -> list[Digit]:
    """The same, each as a picture that is as large as one may be; of no use as a tensor."""
    from convq.harness.chaos.load import Digit  # noqa: PLC0415 - heavy

    images, labels = read_sample(root / "lenet" / "sample")
    return [
        Digit(label, encode(_enlarged(rows), level=0), b"")
        for rows, label in zip(images[:LARGE_DIGITS], labels, strict=False)
    ]


def _enlarged(rows: list[bytes]) -> list[bytes]:
    wide = (b"".join(row[x : x + 1] * ENLARGED for x in range(len(row))) for row in rows)
    return [row for row in wide for _ in range(ENLARGED)]


def _padded(rows: list[bytes]) -> bytes:
    """The picture in the middle of a black square of the input's size, row by row."""
    margin = (INPUT_SIDE - len(rows)) // 2
    black = bytes(INPUT_SIDE * margin)
    return black + b"".join(bytes(margin) + row + bytes(margin) for row in rows) + black


def _greet(console: Console, facts: Started) -> None:
    workers = f"{facts.workers} worker" + ("" if facts.workers == 1 else "s")
    console.print(printable(f"{facts.server} · lenet · {workers} ready · {facts.planned} faults to come") + "\n")


@contextmanager
def _live(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar with counters where somebody watches; a line every few seconds where nobody does."""
    next_s = 0.0
    bar = None
    if console.is_terminal and not console.quiet:
        from rich import progress  # noqa: PLC0415 - only on a terminal

        said = progress.TextColumn("{task.fields[said]}")
        columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TimeElapsedColumn(), said]
        bar = progress.Progress(*columns, console=console, transient=True)
        task = bar.add_task("starting", total=1.0, said="")

    def advance(now: Progress) -> None:
        nonlocal next_s
        if time.monotonic() < next_s and now.phase != "settling":
            return
        next_s = time.monotonic() + (LINE_EVERY_S if bar is None else REDRAW_S)
        if bar is None:
            console.print(f"{now.phase:<11} {now.share:4.0%}  {_counters(now)}")
            return
        bar.start()
        bar.update(task, description=now.phase, completed=now.share, said=_counters(now))

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _counters(now: Progress) -> str:
    counts = now.counts
    bad = {"duplicated": counts.duplicated, "wrong": counts.wrong, "lost": counts.lost}
    said = "".join(f" {name}={count}" for name, count in bad.items() if count)
    return (
        f"answered={counts.answered:,} in_flight={now.in_flight} oldest={now.oldest_s:.1f}s faults={now.faults}{said}"
    )


def _report(console: Console, outcome: Outcome) -> None:
    rows = [
        (one.kind, str(one.struck), str(one.alone), _seconds(one.median_s), _seconds(one.worst_s))
        for one in outcome.kinds
    ]
    met = outcome.met
    if met.struck:
        rows.append(("together", str(met.struck), "", _seconds(met.median_s), _seconds(met.worst_s)))
    console.print()
    print_table(("fault", ">times", ">alone", ">median s", ">worst s"), rows)
    counts = outcome.counts
    console.print(
        f"\nthroughput   {outcome.undisturbed_per_s:,.0f} jobs/s undisturbed, {outcome.disturbed_per_s:,.0f} jobs/s "
        f"under {outcome.faults} faults: {outcome.ratio:.0%}"
    )
    if outcome.terms.fsync != "always":
        console.print(
            f"rolled back  {counts.rolled_back} jobs forgotten and {counts.repeated} answers repeated inside the last 2 s "
            "of a killed server, as documented for everysec"
        )
    for offence in outcome.offences:
        known = json.dumps(offence.known, default=str)[:600]
        console.print(printable(f"offence      {offence.id}: {offence.what} {known}"))
    for trouble in outcome.troubles:
        console.print(printable(f"trouble      {trouble}"))
    if counts.wrong:
        console.print(f"wrong        {counts.wrong} answers")
    console.print(outcome.verdict())


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
