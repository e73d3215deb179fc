"""Findings about a model as the text of a `manifest.toml`, each value with a comment that says where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from convq.importer.findings import Finding, Value
from convq.printable import excerpt

COMMENT_COLUMN = 28


def manifest_text(description: str, findings: Sequence[Finding], by: str = "convq models add") -> str:
    """The whole file, as the command `by` writes it. What was assumed is marked with `# assumed: …; check`.

    A finding of no table whose key is `description` has that in the place of the one given.
    """
    said = next((one.value for one in findings if not one.table and one.key == "description"), description)
    head = f"# Written by `{by}`. Where it says assumed, nothing in the graph could tell: check those values."
    ignored = [_comment(f"{one.key} in its metadata: {one.why}") for one in findings if one.table == "metadata"]
    blocks = [
        [head, *ignored],
        [f"description = {_toml(said)}"],
        ["[input]", *_lines(one for one in findings if one.table == "input")],
    ]
    blocks += [_block(name, findings) for name in ("extra_inputs", "detections")]
    blocks += _inside_detections(findings)
    for name in dict.fromkeys(one.of for one in findings if one.table == "outputs"):
        about = [one for one in findings if one.table == "outputs" and one.of == name]
        if [one.value for one in about] == [None]:
            blocks.append([_comment(f"output {_toml(name)} is {about[0].why}")])
        else:
            blocks.append(["[[outputs]]", f"name = {_toml(name)}", *_lines(about)])
    blocks.append(_block("limits", findings))
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _block(name: str, findings: Sequence[Finding]) -> list[str]:
    """A table, or nothing where nothing stands in it."""
    lines = list(_lines(one for one in findings if one.table == name))
    return [f"[{name}]", *lines] if lines else []


def _inside_detections(findings: Sequence[Finding]) -> Iterator[list[str]]:
    """The tables in `[detections]`. A finding of one of `[[detections.tables]]` is of its output, or names `outputs`."""
    tables = [one for one in findings if one.table == "detections.tables"]
    for name in dict.fromkeys(one.of for one in tables):
        about = [one for one in tables if one.of == name]
        own = [] if any(one.key == "outputs" for one in about) else [f"output = {_toml(name)}"]
        yield ["[[detections.tables]]", *own, *_lines(about)]
    for name in ("masks", "grid", "regions"):
        yield _block(f"detections.{name}", findings)


def place_of(finding: Finding) -> str:
    """Where in the manifest a value stands: the name of its output, or its table, and its key."""
    if not finding.table:
        return finding.key
    return f"{finding.of}: {finding.key}" if finding.of else f"{finding.table}.{finding.key}"


def remark(finding: Finding) -> str:
    """Where a value comes from, as it stands in the comment."""
    return f"{finding.source}: {finding.why}" + ("; check" if finding.source == "assumed" else "")


def _lines(findings: Iterable[Finding]) -> Iterable[str]:
    for one in findings:
        if one.value is None:
            yield _comment(f"{one.key}: {remark(one)}")
        else:
            entry = f"{one.key} = {_toml(one.value)}"
            yield f"{entry:<{COMMENT_COLUMN}}{'' if len(entry) < COMMENT_COLUMN else '  '}{_comment(remark(one))}"


def _comment(text: str) -> str:
    """One line: names of a stranger's graph may hold anything."""
    return "# " + excerpt(text, len(text))


def _toml(value: Value) -> str:
    """A value in TOML. JSON writes texts and numbers alike, except for one character that TOML wants escaped."""
    if isinstance(value, tuple):
        parts = [_toml(part) for part in value]
        return parts[0] if len(parts) == 1 and not isinstance(value[0], tuple) else f"[{', '.join(parts)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
