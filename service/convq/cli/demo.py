"""`convq demo`: shows on the terminal what `convq.harness.demo` does and measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import TYPE_CHECKING

import click

from convq.cli.digits import Digit, choose, draw, encode, read_sample
from convq.cli.display.output import new_console, print_json
from convq.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from convq.harness.demo import Outcome, Started
    from convq.harness.latency import Latency

REDRAW = 25
"""The bar moves once for so many answers."""


@click.command()
@click.option(
    "--count", metavar="N", type=click.IntRange(min=1), default=1000, show_default=True, help="How many digits."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document with every figure, at the end.")
def demo(count: int, *, as_json: bool) -> None:
    """See it work: real digits through a real server, batching workers and back.

    Starts a server and a service of its own, pushes handwritten digits of the MNIST test set as PNG files, prints what
    came back and how fast, and stops both. Nothing is left running, nothing is written outside temporary folders. There
    are 1,000 distinct digits; a larger N repeats them.

    \b
    convq demo
    convq demo --count 20000
    convq demo --json | jq .jobs_per_s
    """
    from convq.harness.demo import MODEL, check, run  # noqa: PLC0415
    from convq.repository.model_folders import default_root  # noqa: PLC0415

    console = new_console(quiet=as_json)
    images, labels = read_sample(default_root() / MODEL / "sample")
    pngs = list(islice(cycle(map(encode, images)), count))
    truth = list(islice(cycle(labels), count))
    with _bar(console, count) as advance:
        outcome = run(pngs, truth, started=lambda facts: _greet(console, facts), advance=advance)
    if as_json:
        print_json([outcome.document()])
    else:
        _report(console, outcome, choose(images, truth, outcome.results))
    check(outcome)


def _greet(console: Console, facts: Started) -> None:
    ready = f"{_many(facts.workers, 'worker')} ready in {facts.ready_s:.1f} s"
    console.print(printable(f"{facts.server} on a private socket · {facts.network} · {ready}") + "\n", soft_wrap=True)


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A bar that grows with every answer; one line at the end where nobody watches."""
    title = f"classifying {total:,} handwritten digits"
    if not console.is_terminal or console.quiet:
        yield lambda done: console.print(f"{title}   {done}/{total}") if done == total else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415 - only on a terminal

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    progress = Progress(*columns, console=console)
    task = progress.add_task(title, total=total, rate="", start=False)

    def advance(done: int) -> None:
        if done <= 1:
            progress.start_task(task)
            progress.start()
        if done % REDRAW == 0 or done == total:  # not every time: looking would slow down what is measured
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, rate=f"{speed:,.0f}/s" if speed else "")
        if done == total:
            progress.stop()

    try:
        yield advance
    finally:
        progress.stop()


def _report(console: Console, outcome: Outcome, digits: list[Digit]) -> None:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in outcome.reasons.items() if count)
    mean = outcome.count / outcome.batches
    lines = {
        "accuracy": f"{outcome.accuracy:.1%}   ({outcome.right:,} of {outcome.count:,})",
        "throughput": f"{outcome.jobs_per_s:,.0f} jobs/s, pushed as fast as they go in",
        "latency": f"{_latency(outcome.paced)}   {outcome.paced_count} jobs one at a time, submit to answer",
        "in the rush": f"{_latency(outcome.burst)}   {outcome.count:,} jobs at once, mostly waiting in line",
        "batches": f"{outcome.batches:,}, mean {mean:.0f} images, largest {outcome.largest_batch}, closed because: {reasons}",
        "metrics": f"{outcome.metrics_url} while it ran (convq serve: port 9464)",
    }
    console.print()
    for name, text in lines.items():
        console.print(f"  {name:<12} {text}", soft_wrap=True)
    console.print()
    draw(console, digits)
    console.print("Next: convq serve            keep it running")
    console.print("      convq submit my.png    your own picture")
    console.print("      convq doctor           is this machine fit for more?")


def _latency(latency: Latency) -> str:
    return f"p50 {latency.p50_ms:.1f} ms   p95 {latency.p95_ms:.1f} ms   p99 {latency.p99_ms:.1f} ms"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
