"""Documentation that drifts from the code fails here: settings, metrics, error codes, exit codes, commands."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import convq
from convq import errors
from convq.answers.detections import describe
from convq.answers.detections.families import FAMILIES
from convq.cli import commands
from convq.engine.codecs import tiff
from convq.errors import JOB_ERRORS
from convq.protocol import Job, Status
from convq.queue.keys import Shard
from convq.repository.manifest import Manifest
from convq.settings import Settings, facts
from convq.supervisor.exposition.metrics import documented_labels, documented_metrics

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "service" / "PROTOCOL.md").read_text()
DESIGN = (ROOT / "service" / "DESIGN.md").read_text()
CONTRIBUTING = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
PACKAGE = ROOT / "service" / "convq"
DECISIONS = ROOT / "service" / "decisions"
ORDINARY_LINE = 100


def rows(text: str, first_cell: str) -> dict[str, list[str]]:
    """The tables of a page whose first column is headed `first_cell`: first cell of each row -> its other cells."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == first_cell:
            inside = True
        elif inside and not cells[0].startswith("---"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_every_setting_stands_in_the_readme_with_its_variable_default_and_meaning() -> None:
    documented = rows(README, "flag")

    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        text = f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        shown = "unset" if default in (None, ()) else text
        known = facts(name)
        expected[f"{known['flag']} {known['metavar']}"] = [f"`{known['variable']}`", shown, field.description]
    assert expected == documented


def test_every_metric_stands_on_its_page_and_no_other() -> None:
    documented = rows((ROOT / "deploy" / "METRICS.md").read_text(), "metric")

    assert documented_metrics() == {name: cells[0] for name, cells in documented.items()}
    assert documented_labels() == {
        name: tuple(filter(None, cells[1].split(", "))) for name, cells in documented.items()
    }


@pytest.mark.parametrize("page", [README, PROTOCOL], ids=["README", "PROTOCOL"])
def test_every_error_code_stands_in_the_pages_with_whose_fault_it_is(page: str) -> None:
    documented = {code: cells[0] for code, cells in rows(page, "code").items() if not code.isdigit()}

    assert {one.code: one.fault for one in JOB_ERRORS} == documented


def test_what_is_worth_another_try_is_said_of_every_answer_and_error_as_the_errors_say_it() -> None:
    said = {name: row[0] for cell, row in rows(PROTOCOL, "what came").items() for name in re.findall(r"\w+", cell)}
    public = {name: getattr(convq, name) for name in convq.__all__}
    raised = {name: one for name, one in public.items() if isinstance(one, type) and issubclass(one, errors.ConvqError)}
    expected = {name: one.retry for name, one in raised.items() if one is not errors.ConvqError}
    expected |= {one.code: one.retry for one in JOB_ERRORS}
    expected |= dict.fromkeys(set(Status) - {Status.OK, Status.ERROR}, False)

    assert {"QueueFull", "bad_image", "expired"} <= set(expected)
    assert {str(name): "yes" if again else "no" for name, again in expected.items()} == {
        name: said.get(str(name)) for name in map(str, expected)
    }


def test_every_exit_code_stands_in_the_readme() -> None:
    documented = {int(code) for code in rows(README, "code") if code.isdigit()}

    every = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ConvqError)]
    assert {0, 130} | {one.exit_code for one in every} == documented


def test_every_key_of_the_queue_stands_in_the_protocol_page() -> None:
    shard = Shard("m")
    keys = [
        *shard.streams,
        shard.leases,
        shard.cancelled,
        shard.dead,
        shard.result("<job id>"),
        shard.inbox("<client>"),
    ]
    named = [key.replace("{m}", "{M}") for key in [*keys, shard.job("<job id>"), "convq:models"]]

    assert [] == [key for key in named if f"`{key}`" not in PROTOCOL]


def walked(page: str) -> Iterator[tuple[str, str]]:
    """What the tables of ways name: the cell that says what is looked for, and each file or name in the cell beside it."""
    for first in ("what", "step"):
        for what, cells in rows(page, first).items():
            yield from ((what, name) for name in re.findall(r"`([^`]+)`", cells[0]))


@pytest.mark.parametrize("page", [CONTRIBUTING, DESIGN], ids=["CONTRIBUTING", "DESIGN"])
def test_the_ways_through_the_tree_lead_to_what_they_name(page: str) -> None:
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.suffix in {".py", ".lua"}}
    lost, text = [], ""
    for what, name in walked(page):
        path = re.fullmatch(r"[A-Za-z_./]+\.(?:py|lua|md)", name)
        if path or name.endswith("/"):
            found = [file for file in files if f"/{file}".endswith(f"/{name}") or file.startswith(name)]
            text = "".join((PACKAGE / file).read_text() for file in found)
            if not found and not (ROOT / name).exists():
                lost.append((what, name))
        elif not re.search(
            rf"^ *(?:(?:async )?def|class) {name.rpartition('.')[2]}\b|^{name}\b.* = ", text, re.MULTILINE
        ):
            lost.append((what, name))

    assert list(walked(page))
    assert [] == lost


def test_contributors_are_told_of_no_room_that_there_is_not() -> None:
    """Single words in the prose about who may import whom."""
    prose = CONTRIBUTING[CONTRIBUTING.index("## Where things live") : CONTRIBUTING.index("## Verbs")]
    named = set(re.findall(r"only `([a-z_]+)`", prose.replace("\n", " ")))

    assert len(named) > 2
    assert set() == {name for name in named if not (PACKAGE / name).is_dir()}


def test_every_room_of_the_package_is_told_of() -> None:
    told = {name for cell in rows(DESIGN, "room") for name in re.findall(r"[a-z_]+", cell)}

    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= told


def test_decisions_are_numbered_without_a_gap_listed_and_made_of_ordinary_lines() -> None:
    files = sorted(DECISIONS.glob("0*.md"))
    listed = re.findall(r"^- \[(\d{4})\]\((\S+)\) (.+)$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    titles = {file.name: file.read_text().splitlines()[0] for file in files}

    assert list(range(1, len(files) + 1)) == [int(file.name[:4]) for file in files]
    assert [(name[:4], name, title.removeprefix(f"# {int(name[:4])}. ")) for name, title in titles.items()] == listed
    long = {
        f"{file.name}: {line}"
        for file in files
        for line in file.read_text().splitlines()
        if len(line) > ORDINARY_LINE and " " in line.strip() and "](" not in line
    }
    assert set() == long


def test_what_the_decisions_link_to_is_there() -> None:
    pages = [*DECISIONS.glob("*.md"), ROOT / "service" / "DESIGN.md"]
    links = [
        (page.name, page.parent / link.partition("#")[0])
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if "://" not in link and not link.startswith("#")
    ]

    assert [] == [(page, str(link)) for page, link in links if not link.exists()]


def test_every_make_verb_that_the_pages_name_exists() -> None:
    pages = README + DESIGN + CONTRIBUTING
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {"demo", "test"} <= set(re.findall(r"\bmake ([a-z-]+)", README))
    assert set() == set(re.findall(r"`make ([a-z-]+)", pages)) - targets


def test_every_convq_command_that_the_pages_name_exists_and_knows_its_flags() -> None:
    lines = re.findall(r"^(?:\$ )?convq ([a-z].*)$", README + PROTOCOL, re.MULTILINE)

    assert lines
    for line in lines:
        command: click.Command = commands
        for word in line.partition("#")[0].split():
            if isinstance(command, click.Group):
                assert word in command.commands, line
                command = command.commands[word]
            elif word.startswith("--"):
                assert word in {flag for parameter in command.params for flag in parameter.opts}, line


def test_links_inside_the_repository_lead_somewhere() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "README.md" in names
    for page in map(ROOT.joinpath, names):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} -> {target}"


def test_files_that_the_readme_uses_are_committed() -> None:
    committed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    assert set() == set(re.findall(r"models/[\w./-]+\.\w+", README)) - set(committed)


def test_the_page_of_models_says_how_large_images_the_filters_take() -> None:
    page = " ".join((ROOT / "models" / "README.md").read_text().split())
    found = re.search(r"Both filters take images of any size up to ([0-9.]+) million pixels", page)

    assert found
    for name in ("gaussian_blur", "edges"):
        assert float(found[1]) * 1e6 == Manifest.read(ROOT / "models" / name).limits.max_pixels


def test_the_page_of_models_says_of_every_family_what_its_code_says() -> None:
    page = (ROOT / "models" / "README.md").read_text()

    for name, make in FAMILIES.items():
        said, _, source = " ".join((make.__doc__ or "").replace("|", r"\|").split()).partition(" Source: ")
        reads = " ".join(describe({"family": name}, 3).outputs)
        assert f"| `{name}` | {said} Reads `{reads}`. | {source.removesuffix('.')} |" in page


def test_the_protocol_page_has_every_field_of_a_job() -> None:
    assert set(Job.model_fields) <= {name for cell in rows(PROTOCOL, "field") for name in re.findall(r"[a-z_]+", cell)}


def test_the_protocol_page_says_which_bits_of_a_tiff_are_read() -> None:
    (row,) = [line for line in PROTOCOL.splitlines() if line.startswith("| TIFF |")]

    assert tiff.READ in row


COMPARED = {
    "onnxruntime in a loop": "bare_1",
    "the same, 64 images a run": "bare_64",
    "**convq**": "convq",
    "Celery": "celery",
    "mosec": "mosec",
}
"""The rows of the README's comparison that were measured, and what the measurement calls them."""
FATES = {"twice": "answered twice", "failed": "got an error", "never": "unanswered"}


def test_the_comparison_with_others_says_what_was_measured() -> None:
    report = json.loads((ROOT / "tests" / "bench" / "alternatives" / "result.json").read_text())
    documented = rows(README, "convq or …")

    assert COMPARED.keys() <= documented.keys()
    for row, name in COMPARED.items():
        taken, waited = report["throughput"][name], report["latency"].get(name)
        fate = report["worker_killed"].get(name)
        latencies = f"{waited['p50_ms']:.1f} · {waited['p99_ms']:.1f}" if waited else ""
        times = taken["cpu_ms"] / report["throughput"]["bare_1"]["cpu_ms"]
        figures = [f"{taken['cpu_ms']:.2f} · {times:.1f}", f"{taken['jobs_per_s']:,}", latencies]
        assert [*figures, became(fate) if fate else ""] == documented[row][:4]
    assert all(cells[0] == "not measured" for row, cells in documented.items() if row not in COMPARED)


def became(fate: dict[str, int]) -> str:
    """Of the jobs among which a worker was killed, in words."""
    jobs = sum(fate[key] for key in ("once", *FATES))
    others = [f"{fate[key]:,} {words}" for key, words in FATES.items() if fate[key]]
    return ", ".join([f"{fate['once']:,} of {jobs:,} answered once", *others])


def test_what_is_said_below_the_comparison_was_measured_too() -> None:
    report = json.loads((ROOT / "tests" / "bench" / "alternatives" / "result.json").read_text())
    whole, machine = report["service_killed"], report["machine"]
    text = " ".join(README.split())

    assert f"on {machine['cores']} shared cores" in text
    assert f"(load {machine['load_before'][0]:g} before, {machine['load_after'][0]:g} after)" in text
    assert f"its errors came within {report['worker_killed']['mosec']['last_answer_s']:g} s" in text
    assert (
        f"convq answered {whole['convq']['once']:,}, the last of them {whole['convq']['last_answer_s']:g} s later"
        in text
    )
    assert (
        f"Of Celery's, {whole['celery']['never']:,} were unanswered after another {report['settings']['patience_s']:g} s"
        in text
    )
