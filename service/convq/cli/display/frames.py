"""One picture of `convq top` as lines of text: what fits into so many columns and rows, the most important first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from convq.cli.display.views import UNNAMED, View, hosts_of
from convq.printable import printable
from convq.queue.transport.pushers import Pusher

Style = Literal["", "bold", "red", "dim"]
ROOMY = 18
"""With so many rows there are empty lines between the parts."""
NAME_COLUMNS = (8, 24)
"""The least and the most that a name has."""
NEEDED_COLUMNS = 14
"""So much of a model's name is worth more than another column."""
UNKNOWN = "-"


class Line(NamedTuple):
    """A line, with one style for all of it."""

    text: str
    style: Style = ""


class Column(NamedTuple):
    """A column of numbers; of those that do not fit, the ones with the highest `rank` go first."""

    title: str
    rank: int


_COLUMNS = {
    "waiting": Column("waiting", 0),
    "high": Column("high", 8),
    "normal": Column("normal", 9),
    "low": Column("low", 10),
    "held": Column("held", 3),
    "oldest": Column("oldest", 2),
    "in": Column("in/s", 4),
    "out": Column("out/s", 1),
    "failed": Column("failed/s", 6),
    "refused": Column("refused/s", 7),
    "workers": Column("workers", 5),
    "dead": Column("dead", 11),
}


def frame(
    views: Mapping[str, View],
    pushers: Sequence[Pusher] | None,
    columns: int,
    rows: int,
    where: str,
    trouble: str | None,
) -> list[Line]:
    """At most `rows` lines of at most `columns` characters. `trouble`: why these figures are old."""
    gap = [Line("")] if rows >= ROOMY else []
    head = [_headline(where, columns)]
    if trouble is not None:
        head += [Line(printable(trouble), "red")]
    elif not views:
        head += [Line("no worker serves any model on this server", "red")]
    left = rows - len(head) - len(gap)
    lines = [*head, *gap, *_cut("models", list(_models(views, columns)), max(2, left // 2))]
    parts = [("clients", list(_clients(views, columns))), ("hosts", list(_hosts(views, columns)))]
    if pushers and any(UNNAMED in view.clients() for view in views.values()):
        parts.insert(1, ("connections that push", list(_connections(pushers, columns))))
    parts = [part for part in parts if len(part[1]) > 1]
    for number, (title, part) in enumerate(parts):
        room = (rows - len(lines)) // (len(parts) - number) - len(gap)
        lines += [*gap, *_cut(title, part, room)]
    return [Line(line.text[:columns].rstrip(), line.style) for line in lines[:rows]]


def _headline(where: str, columns: int) -> Line:
    clock = time.strftime("%H:%M:%S")
    left = printable(f"convq top  {where}")[: max(0, columns - len(clock) - 1)]
    return Line(f"{left:<{max(0, columns - len(clock))}}{clock}"[-columns:], "bold")


def _cut(title: str, lines: list[Line], room: int) -> list[Line]:
    """The head of a part and as many of its rows as there is room for; what is left out is said in the place of the last."""
    if room <= 2 or len(lines) <= room:  # noqa: PLR2004 - a head and a row
        return lines[:room] if room >= 2 else []  # noqa: PLR2004
    hidden = len(lines) - room + 1
    return [*lines[: room - 1], Line(f"  and {hidden} more {title}", "dim")]


def _models(views: Mapping[str, View], columns: int) -> Iterator[Line]:
    busy_first = sorted(views.items(), key=lambda one: (not one[1].now.jobs, one[0]))
    table = {model: _cells(view) for model, view in busy_first}
    widths = (
        {
            name: max(len(column.title), *(len(cells[name]) for cells in table.values()), 0)
            for name, column in _COLUMNS.items()
        }
        if table
        else {}
    )
    if not table:
        return
    shown = sorted(_COLUMNS, key=lambda name: _COLUMNS[name].rank)
    needed = min(NEEDED_COLUMNS, max(NAME_COLUMNS[0], *map(len, table)))
    while sum(widths[name] + 2 for name in shown) + needed > columns and len(shown) > 1:
        shown.pop()
    numbers = [name for name in _COLUMNS if name in shown]
    room = columns - sum(widths[name] + 2 for name in numbers)
    wide = max(NAME_COLUMNS[0], min(room, NAME_COLUMNS[1], max(map(len, table))))
    yield Line(_row("model", wide, ((_COLUMNS[name].title, widths[name]) for name in numbers)), "bold")
    for model, cells in table.items():
        view = views[model]
        stands = bool(view.now.jobs) and not view.now.alive
        style: Style = "red" if view.now.is_full or stands else ""
        yield Line(_row(model, wide, ((cells[name], widths[name]) for name in numbers)), style)


def _row(name: str, wide: int, cells: Iterable[tuple[str, int]]) -> str:
    return f"{_short(name, wide):<{wide}}" + "".join(f"  {text:>{width}}" for text, width in cells)


def _cells(view: View) -> dict[str, str]:
    lanes = dict(zip(("high", "normal", "low"), view.now.lanes, strict=True))
    return {
        "waiting": _count(view.waiting) + ("!" if view.now.is_full else ""),
        **{name: _count(lane.waiting) for name, lane in lanes.items()},
        "held": _count(view.held),
        "oldest": _age(view.now.oldest_age_s),
        "in": _rate(view.in_per_s),
        "out": _rate(view.out_per_s),
        "failed": _rate(view.failed_per_s),
        "refused": _rate(view.refused_per_s),
        "workers": _count(len(view.now.alive)),
        "dead": _count(view.now.dead_letters),
    }


def _clients(views: Mapping[str, View], columns: int) -> Iterator[Line]:
    rows = [
        (name, view.now.model, share, share * view.now.jobs, view.now.sampled < view.now.jobs)
        for view in views.values()
        for name, share in view.clients().items()
    ]
    rows.sort(key=lambda row: -row[3])
    wide = max(NAME_COLUMNS[0], min(NAME_COLUMNS[1], columns - 29))
    yield Line(f"{'client':<{wide}}  {'in queue':>8}  {'share':>5}  model", "bold")
    for name, model, share, jobs, estimated in rows:
        about = f"{'~' if estimated else ''}{_count(round(jobs))}"
        yield Line(f"{_short(name, wide):<{wide}}  {about:>8}  {share:>5.0%}  {model}")


def _connections(pushers: Sequence[Pusher], columns: int) -> Iterator[Line]:
    wide = max(NAME_COLUMNS[0], min(NAME_COLUMNS[1], columns - 33))
    yield Line(f"{'connection':<{wide}}  {'pushing':>7}  {'user':<10}  address", "bold")
    for one in pushers:
        name, user = _short(one.name or UNKNOWN, wide), _short(one.user, 10)
        yield Line(f"{name:<{wide}}  {one.connections:>7}  {user:<10}  {printable(one.address)}")


def _hosts(views: Mapping[str, View], columns: int) -> Iterator[Line]:
    wide = max(NAME_COLUMNS[0], min(NAME_COLUMNS[1] * 2, columns - 26))
    yield Line(f"{'host':<{wide}}  {'workers':>7}  {'held':>6}  {'models':>6}", "bold")
    for host, (workers, held, models) in hosts_of(views).items():
        yield Line(f"{_short(host, wide):<{wide}}  {workers:>7}  {_count(held):>6}  {models:>6}")


def _short(text: str, most: int) -> str:
    shown = printable(text).encode("ascii", "replace").decode()
    return shown if len(shown) <= most else f"{shown[: most - 2]}.."


def _count(number: int) -> str:
    if number < 100_000:  # noqa: PLR2004 - six characters
        return f"{number:,}"
    return f"{number / 1e3:,.0f}k" if number < 1e8 else f"{number / 1e6:,.0f}M"  # noqa: PLR2004


def _rate(per_s: float | None) -> str:
    if per_s is None:
        return UNKNOWN
    return f"{per_s:.1f}" if 0 < per_s < 10 else _count(round(per_s))  # noqa: PLR2004 - two figures


def _age(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.1f}s"
