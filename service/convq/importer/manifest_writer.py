"""Findings about a model as the text of a `manifest.toml`, each value with a comment that says where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from convq.importer.infer_input import Finding, Value
from convq.printable import excerpt

COMMENT_COLUMN = 28


def manifest_text(description: str, findings: Sequence[Finding], by: str = "convq models add") -> str:
    """The whole file, as the command `by` writes it. What was assumed is marked with `# assumed: …; check`."""
    outputs = dict.fromkeys(one.of for one in findings if one.table == "outputs")
    blocks = [
        [f"# Written by `{by}`. Where it says assumed, nothing in the graph could tell: check those values."],
        [f"description = {_toml(description)}"],
        ["[input]", *_lines(one for one in findings if one.table == "input")],
    ]
    if extra := list(_lines(one for one in findings if one.table == "extra_inputs")):
        blocks.append(["[extra_inputs]", *extra])
    for name in outputs:
        about = [one for one in findings if one.table == "outputs" and one.of == name]
        if [one.value for one in about] == [None]:
            blocks.append([_comment(f"output {_toml(name)} is {about[0].why}")])
        else:
            blocks.append(["[[outputs]]", f"name = {_toml(name)}", *_lines(about)])
    if limits := list(_lines(one for one in findings if one.table == "limits")):
        blocks.append(["[limits]", *limits])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def place_of(finding: Finding) -> str:
    """Where in the manifest a value stands: the name of its output, or its table, and its key."""
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
        numbers = [_toml(part) for part in value]
        return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
