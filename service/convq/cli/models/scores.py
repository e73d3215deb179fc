"""What `convq models eval` prints for people, of the document that programs get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convq.cli.display.output import print_facts, print_line, print_table

MATRIX = 20
"""Classes that a confusion matrix is drawn for; of more, the most frequent mistakes are listed."""
CLASSES = 40
"""Rows of the table of classes; of more, those with the lowest recall."""
ROWS = 20
FAILURES = 10


def show_scores(document: Mapping[str, Any]) -> None:
    """Accuracy, classes, confusion, worst pictures, and the other version where there is one."""
    _show_facts(document)
    if not document["answered"]:
        _show_failed(document["failed"])
        return
    _show_classes(document["classes"])
    _show_confusion(document)
    if document["worst"]:
        print_line("\nwrong, and most sure of it")
        rows = [[one["picture"], one["label"], one["said"], f"{one['score']:.1%}"] for one in document["worst"]]
        print_table(["picture", "is", "said", ">score"], rows)
    _show_failed(document["failed"])
    if "against" in document:
        _show_against(document)


def _show_facts(document: Mapping[str, Any]) -> None:
    where = "as it is served" if document["source"] == "served" else "from the model folder"
    failed = document["failed"]["count"]
    of = f"{document['answered']:,} of {document['pictures']:,}" + (f"; {failed:,} could not be" if failed else "")
    facts = {
        "model": f"{document['model']}, version {document['version']}, {where}",
        "answered": of if document["complete"] else f"{of}; stopped before the end",
        "right": _share(document["top1"]),
    }
    if document["top5"] is not None:
        facts["among 5"] = _share(document["top5"])
    for number, note in enumerate(document["notes"][:ROWS]):
        facts["note" if number == 0 else " " * (number + 1)] = note
    print_facts(facts)
    if len(document["notes"]) > ROWS:
        print_line(f"and {len(document['notes']) - ROWS} notes more, with --json")


def _share(found: Mapping[str, Any]) -> str:
    if found["share"] is None:
        return "nothing to count"
    return f"{found['share']:.2%} ({found['right']:,}; {found['low']:.2%} to {found['high']:.2%} with 95% confidence)"


def _show_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    shown = sorted(classes, key=lambda one: (one["recall"] is None, one["recall"] or 0.0))[:CLASSES]
    if len(classes) > CLASSES:
        print_line(f"\nthe {CLASSES} classes of {len(classes)} with the lowest recall")
    else:
        shown = list(classes)
        print_line()
    rows = [[one["label"], f"{one['support']:,}", _percent(one["precision"]), _percent(one["recall"])] for one in shown]
    print_table(["class", ">pictures", ">precision", ">recall"], rows)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _show_confusion(document: Mapping[str, Any]) -> None:
    """A matrix, or where that would be too wide, the mistakes that are made most."""
    classes, cells = document["classes"], document["confusion"]
    if len(classes) <= MATRIX:
        counts = {(cell["index"], cell["said_index"]): cell["count"] for cell in cells}
        print_line("\nrows: what it is; columns: what was said")
        indices = [one["index"] for one in classes]
        rows = [
            [one["label"], *(str(counts.get((one["index"], column), "·")) for column in indices)] for one in classes
        ]
        print_table(["", *(f">{one['label']}" for one in classes)], rows)
        return
    mistakes = sorted((cell for cell in cells if cell["index"] != cell["said_index"]), key=lambda cell: -cell["count"])
    if mistakes:
        print_line("\nmost frequent mistakes")
        rows = [[cell["label"], cell["said"], f"{cell['count']:,}"] for cell in mistakes[:ROWS]]
        print_table(["is", "said", ">pictures"], rows)


def _show_failed(failed: Mapping[str, Any]) -> None:
    if not failed["count"]:
        return
    kinds = ", ".join(f"{count:,} {code}" for code, count in failed["codes"].items())
    print_line(f"\nnot answered: {kinds}")
    shown = failed["pictures"][:FAILURES]
    print_table(["picture", "why"], [[one["picture"], one["message"]] for one in shown])


def _show_against(document: Mapping[str, Any]) -> None:
    other, this = document["against"], document["version"]
    print_line(f"\nagainst version {other['version']}: {_share(other['top1'])}")
    print_facts(
        {
            "both right": f"{other['both_right']:,}",
            f"only {this}": f"{other['only_this']:,}",
            f"only {other['version']}": f"{other['only_other']:,}",
            "both wrong": f"{other['both_wrong']:,}",
            "p": f"{other['p']:.4f}, if both were equally good",
        }
    )
    _show_failed(other["failed"])
    if other["changed"]:
        print_line(f"\nanswered otherwise: {other['changed']:,}")
        rows = [[one["picture"], one["label"], one["this"], one["other"]] for one in other["changed_pictures"][:ROWS]]
        print_table(["picture", "is", f"version {this}", f"version {other['version']}"], rows)
