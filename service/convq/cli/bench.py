"""`convq bench`: shows on the terminal what `convq.harness.bench` measures."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from convq.cli.connection import choose_model, connected, model_option, redis_options
from convq.cli.digits import encode, read_sample
from convq.cli.display.output import for_programs, json_option, print_facts, print_json
from convq.interrupts import between_imports
from convq.queue import Address

if TYPE_CHECKING:
    from convq.harness.bench import Report


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE...]", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@redis_options
@model_option
@click.option(
    "--rate",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Open loop: so many jobs a second, whatever becomes of those before.",
)
@click.option(
    "--in-flight",
    metavar="N",
    type=click.IntRange(min=1),
    help="Closed loop: so many jobs at a time; an answer makes room for the next.  [64 where no --rate is given]",
)
@click.option(
    "--seconds",
    metavar="S",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="How long jobs are sent.",
)
@click.option("--repeat", is_flag=True, help="Run after run until stopped, each with a report of its own.")
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Without an answer for so long, what is missing counts as not answered.",
)
@json_option
def bench(
    images: tuple[Path, ...],
    address: Address,
    model: str | None,
    *,
    rate: float | None,
    in_flight: int | None,
    seconds: float,
    repeat: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Put a running service under load, and measure it.

    Sends IMAGE files of any format, over and over, or else the 1,000 sample digits as PNG. In the open loop a latency
    counts from when its job was due: a service that stalls is charged with the whole stall. Jobs that a full queue refuses
    are counted and not sent again. Ends with 1 if a job that was accepted did not end as ok.

    \b
    convq bench                              how much goes through
    convq bench --rate 500 --seconds 60      how long a job takes at 500 a second
    convq bench photo.jpg --model efficientnet_lite0 --in-flight 16
    convq bench --rate 100 --repeat --json | jq .latency.p99_ms
    """
    from convq.harness.bench import IN_FLIGHT, Load, run  # noqa: PLC0415 - not needed for --help

    if rate is not None and in_flight is not None:
        raise click.UsageError("--rate is the open loop and --in-flight the closed one: give one of them")
    load = Load(_payloads(images), seconds, rate, in_flight or IN_FLIGHT, timeout)
    signal.signal(signal.SIGTERM, between_imports(_leave))
    programs = for_programs(as_json=as_json)
    with connected(address, model) as client:
        chosen = choose_model(client, model)
        while True:
            report = run(address, chosen, load)
            _show(report, programs=programs)
            report.check()
            if not repeat:
                return


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


def _payloads(images: Sequence[Path]) -> list[bytes]:
    if images:
        return [path.read_bytes() for path in images]
    from convq.repository.model_folders import default_root  # noqa: PLC0415 - brings the engine

    digits, _ = read_sample(default_root() / "lenet" / "sample")
    return [encode(rows) for rows in digits]


def _show(report: Report, *, programs: bool) -> None:
    if programs:
        print_json([report.document()])
        return
    latency = report.latency
    refused = f", {report.refused:,} refused: the queue was full" if report.refused else ""
    percentiles = {"p50": latency.p50_ms, "p90": latency.p90_ms, "p95": latency.p95_ms, "p99": latency.p99_ms}
    percentiles |= {"p99.9": latency.p999_ms, "max": latency.max_ms}
    print_facts(
        {
            "model": report.model,
            "loop": report.loop,
            "jobs": f"{report.accepted:,} accepted, {report.ok:,} ok{refused}",
            "throughput": f"{report.jobs_per_s:,.1f} jobs/s in {report.elapsed_s:.1f} s",
            "latency": "   ".join(f"{name} {value:.1f}" for name, value in percentiles.items()) + "   ms",
            "generator": f"at most {report.latest_ms:.1f} ms late",
        }
    )
