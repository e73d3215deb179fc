"""The layout is a promise: what the wheel holds, how long things are, what is written where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "service" / "convq"
MAX_FUNCTION_LINES = 60
MAX_CLASS_LINES = 250
MAX_FILE_LINES = 350
MAX_MODULES = 16
VAGUE_NAMES = {"utils", "util", "common", "manager", "managers", "helpers", "helper", "misc", "base", "core"}
FOREIGN = re.compile(r"/(?:work|home|root)/[\w.-]+|pypi\.org|pythonhosted\.org|registry\.npmjs|download\.pytorch")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Name and text of every file of the project that is text; what git ignores is not of the project."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def project() -> dict[str, Any]:
    metadata: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return metadata


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements() -> Iterator[tuple[str, str]]:
    """Name and range of every dependency that CPU machines install."""
    extras = project()["optional-dependencies"]
    groups = [project()["dependencies"], *(extras[name] for name in extras if not name.startswith("cuda"))]
    for requirement in (item for group in groups for item in group):
        match = re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z,]+\])?(.*)", requirement)
        assert match, requirement
        if match[1] != "convq":
            yield match[1], match[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel built from this checkout."""
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_takes_one_name_in_site_packages(wheel: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel}

    assert {"convq"} == {name for name in top if not name.endswith(".dist-info")}


def test_the_wheel_holds_every_module_script_and_marker_of_the_package(wheel: set[str]) -> None:
    wanted = {
        str(path.relative_to(ROOT / "service"))
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".lua", ".json"} or path.name == "py.typed"
    }

    schemas = {f"convq/schema/{path.name}" for path in (ROOT / "service" / "schema").glob("*.json")}

    assert any(name.endswith(".lua") for name in wanted)
    assert schemas
    assert wanted | schemas <= wheel


def test_the_wheel_holds_lenet_and_its_sample(wheel: set[str]) -> None:
    held = {name.removeprefix("convq/models/lenet/") for name in wheel if name.startswith("convq/models/lenet/")}

    assert {"manifest.toml", "labels.txt", "1/model.onnx", "1/report.json"} <= held
    assert any(name.startswith("sample/") for name in held)
    assert not any(name.endswith((".py", ".safetensors")) for name in held)


def test_the_source_root_and_the_models_are_no_packages() -> None:
    assert not (ROOT / "service" / "__init__.py").exists()
    assert list((ROOT / "models").rglob("__init__.py")) == []


def test_no_file_of_the_package_is_longer_than_the_budget() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}

    assert {} == {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES}


def test_no_room_has_more_modules_than_one_can_look_over() -> None:
    counts = Counter(str(path.parent.relative_to(PACKAGE)) for path in sources())

    assert {} == {room: count for room, count in counts.items() if count > MAX_MODULES}


def test_no_module_needs_itself_whatever_is_imported_for_types_alone() -> None:
    graph = grimp.build_graph("convq", exclude_type_checking_imports=False, cache_dir=None)
    needs = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    packages = {module for module in needs if graph.find_children(module)}
    needs = {module: needed - packages for module, needed in needs.items() if module not in packages}

    assert list(TopologicalSorter(needs).static_order())


def too_long(kinds: tuple[type[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef], ...], most: int) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kinds) and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > most
    ]


def test_no_function_of_the_package_is_longer_than_the_budget() -> None:
    assert [] == too_long((ast.FunctionDef, ast.AsyncFunctionDef), MAX_FUNCTION_LINES)


def test_no_class_of_the_package_is_longer_than_the_budget() -> None:
    assert [] == too_long((ast.ClassDef,), MAX_CLASS_LINES)


def test_every_module_says_first_what_it_is() -> None:
    assert [] == [
        str(path.relative_to(ROOT)) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))
    ]


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {part for path in sources() for part in (path.stem, path.parent.name)}

    assert set() == names & VAGUE_NAMES


def test_threads_of_a_service_begin_in_one_place_where_their_end_is_noticed() -> None:
    begun = re.compile(r"\bThread\(|start_new_thread|ThreadPoolExecutor|threading\.Timer\(")
    others = {"cli", "client", "evaluation", "harness"}  # no parts of a service
    rooms = [path for path in sources() if path.relative_to(PACKAGE).parts[0] not in others]

    # a log must not wait for whoever reads it, so that its outlet has a thread before there is anything to watch it
    assert {"threads.py", "outlet.py"} == {path.name for path in rooms if begun.search(path.read_text())}


def test_complexity_is_never_excused() -> None:
    excuse = re.compile(r"noqa:.*\b(C901|PLR09\d\d)")

    assert [] == [str(path) for path in sources() if excuse.search(path.read_text())]


PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "jsonpickle", "joblib", "marshal", "shelve"}
RUNS_TEXT = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
}


def foreign_code(tree: ast.AST) -> Iterator[str]:
    """What in a module could run code that came in as data: picklers, evaluation, shells, loaders that unpickle."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{node.lineno}: import {name}" for name in names if name.partition(".")[0] in PICKLERS)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            unpickles = given.get("allow_pickle", "False") != "False"
            loads = called == "torch.load" and given.get("weights_only") != "True"
            shell = given.get("shell", "False") != "False" and called.startswith(("subprocess.", "Popen", "run"))
            if called in RUNS_TEXT or unpickles or loads or shell:
                yield f"{node.lineno}: {called}"


def test_no_data_is_run_as_code() -> None:
    folders = [PACKAGE, *(ROOT / name for name in ("models", "tests", "deploy"))]
    modules = {path for folder in folders for path in folder.rglob("*.py") if "node_modules" not in path.parts}

    assert PACKAGE / "client" / "__init__.py" in modules
    found = [f"{path}:{what}" for path in sorted(modules) for what in foreign_code(ast.parse(path.read_text()))]
    assert [] == found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "import os, marshal",
        "eval(text)",
        "exec(text)",
        "os.system(line)",
        "os.popen(line)",
        "yaml.load(text, yaml.SafeLoader)",
        "np.load(file, allow_pickle=True)",
        "np.lib.format.read_array(file, allow_pickle=wanted)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "subprocess.run(line, shell=True)",
        "Popen(line, shell=wanted)",
    ],
)
def test_what_would_run_data_as_code_is_recognised(line: str) -> None:
    assert 1 == len(list(foreign_code(ast.parse(line))))


@pytest.mark.parametrize(
    "line",
    [
        "yaml.safe_load(text)",
        "np.load(file)",
        "np.load(file, allow_pickle=False)",
        "torch.load(file, weights_only=True)",
        "net.eval()",
        "redis.eval(script, 0)",
        "subprocess.run([program])",
    ],
)
def test_what_does_not_is_let_be(line: str) -> None:
    assert [] == list(foreign_code(ast.parse(line)))


def test_every_lua_script_opens_with_the_keys_it_touches() -> None:
    heads = {path.name: path.read_text().splitlines() for path in PACKAGE.rglob("*.lua")}
    comments = {name: next(line for line in lines if not line.startswith("#!")) for name, lines in heads.items()}

    assert [] == [name for name, line in comments.items() if not line.startswith("--")]


def test_no_file_names_a_machine_or_a_package_registry() -> None:
    found = [f"{name}: {match[0]}" for name, text in tracked_texts() for match in FOREIGN.finditer(text)]

    assert [] == found


def test_lower_bounds_are_the_ones_that_are_tested() -> None:
    bounds = {name: match[1] for name, wanted in requirements() if (match := re.match(r"[>=]=([^,]+)", wanted))}

    assert pins("tests/lowest-constraints.txt") == bounds


def test_every_dependency_is_pinned_for_ci() -> None:
    pinned = pins("constraints.txt")

    assert set() == {name for name, _ in requirements()} - set(pinned)


def test_the_cuda_extras_ask_for_the_same_as_cpu_but_for_the_engine() -> None:
    extras = project()["optional-dependencies"]

    def besides_engine(extra: str) -> list[str]:
        return [item for item in extras[extra] if not item.startswith("onnxruntime")]

    assert besides_engine("cpu") == besides_engine("cuda") == besides_engine("cuda12")


# -- text, terminals and children ---------------------------------------------------------------------------------------

SHIPPED = [path for name in ("service", "models", "deploy") for path in sorted((ROOT / name).rglob("*.py"))]


def encoded_by_chance(tree: ast.AST) -> Iterator[str]:
    """Calls that read or write text in whatever encoding the user's locale has."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        modes = [ast.unparse(one) for one in node.args] + [given.get("mode", "")]
        is_binary = any(re.fullmatch(r"'[rwaxb+]*b[rwaxb+]*'", mode) for mode in modes)
        text = called in ("read_text", "write_text") or "True" in (given.get("text"), given.get("universal_newlines"))
        opens = called in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile")
        names = any(re.fullmatch(r"'[rwax+]+'", mode) for mode in modes)
        if "encoding" not in given and (text or (opens and names and not is_binary)):
            yield f"{node.lineno}: {ast.unparse(node.func)}"


def test_all_text_is_utf8_whatever_the_locale_says() -> None:
    found = [f"{path}:{what}" for path in SHIPPED for what in encoded_by_chance(ast.parse(path.read_text()))]

    assert PACKAGE / "queue" / "transport" / "link.py" in SHIPPED
    assert [] == found


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("path.read_text()", 1),
        ("files('x').joinpath('y').read_text()", 1),
        ("path.write_text(text)", 1),
        ("open(name, 'w')", 1),
        ("path.open('r')", 1),
        ("subprocess.run(line, text=True)", 1),
        ("path.read_text(encoding='utf-8')", 0),
        ("open(name, 'rb')", 0),
        ("path.open('wb')", 0),
        ("subprocess.run(line, text=True, encoding='utf-8')", 0),
    ],
)
def test_text_of_a_chance_encoding_is_recognised(line: str, count: int) -> None:
    assert count == len(list(encoded_by_chance(ast.parse(line))))


def unexplained(text: str) -> list[str]:
    """The lines that catch everything and say nowhere why: behind it, or in the line below."""
    lines = [*text.splitlines(), ""]
    broad = re.compile(r"^\s*except(\s*:| .*\b(Base)?Exception\b)")
    reason = re.compile(r"#(?! noqa: [A-Z]+[0-9]+\s*$)")
    return [
        line.strip()
        for line, below in pairwise(lines)
        if broad.match(line) and not reason.search(line.replace("noqa: BLE001 - ", "")) and not reason.search(below)
    ]


def test_whoever_catches_everything_says_why() -> None:
    assert {} == {str(path): found for path in SHIPPED if (found := unexplained(path.read_text(encoding="utf-8")))}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("except Exception:\n    pass", 1),
        ("    except:\n        pass", 1),
        ("except (ValueError, BaseException) as error:  # noqa: BLE001\n    pass", 1),
        ("except Exception:  # noqa: BLE001 - a stranger's code\n    pass", 0),
        ("except Exception as error:\n    # a stranger's code\n    pass", 0),
        ("except OSError:\n    pass", 0),
    ],
)
def test_what_catches_everything_is_recognised(text: str, count: int) -> None:
    assert count == len(unexplained(text))


def test_commands_write_where_text_is_made_printable_and_nowhere_else() -> None:
    writes = {"click.echo", "click.secho", "print", "Console", "sys.stdout.write", "sys.stderr.write", "print_exc"}
    rooms = [*(PACKAGE / "cli").rglob("*.py"), *(PACKAGE / "harness").glob("*.py")]
    calls = [
        (path.name, ast.unparse(node.func))
        for path in rooms
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]

    assert {"output.py"} == {name for name, called in calls if called in writes}


def test_every_python_that_is_started_is_kept_from_the_working_folder() -> None:
    started = [
        (path.name, ast.unparse(node))
        for path in SHIPPED
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable"
    ]

    assert len(started) > 3
    assert [] == [one for one in started if not re.match(r"\[sys\.executable, '-[PI]'", one[1])]


def test_actions_are_pinned_by_commit() -> None:
    used = [
        line.partition("uses:")[2].strip()
        for file in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in file.read_text().splitlines()
        if "uses:" in line
    ]

    assert len(used) > 5
    assert [] == [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)]
