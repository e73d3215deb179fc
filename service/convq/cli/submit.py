"""`convq submit`: pictures in, a table or JSON lines out."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import click

from convq.cli.connection import choose_model, connected, model_option, redis_options
from convq.cli.display.detections import ASKED, detection_options
from convq.cli.display.output import for_programs, json_option, print_json, print_line, print_table, progress
from convq.cli.display.seen import is_seen, print_result
from convq.cli.saving import UNASKED, InputSaver, MapSaver
from convq.cli.versions import version_option
from convq.client import DEFAULT_TIMEOUT_S, Client
from convq.client.inputs import SUFFIXES
from convq.host.extras import install
from convq.printable import printable
from convq.protocol import PREPARED, Output, Priority, Result
from convq.queue import Address

STDIN = "-"
ARRAYS = (".npy", ".npz")
NUMBERS = 8
CODES = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "bool": "?",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
}
CODES |= {"int32": "i", "uint32": "I", "int64": "q", "uint64": "Q"}
"""dtype -> the letter of `struct`."""
CHUNK = 64
"""Pictures that are in memory at a time where nobody waits for results."""


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(exists=True, allow_dash=True))
@redis_options
@model_option
@click.option("--top-k", metavar="N", type=click.IntRange(min=1), help="How many classes to return (5).")
@click.option("--ttl-ms", metavar="MS", type=click.IntRange(min=0), help="Don't compute what is older than this.")
@click.option("--priority", type=click.Choice([str(lane) for lane in Priority]), default="normal", show_default=True)
@click.option("--id", "job_id", metavar="ID", help="Your own id, for one image: may be submitted again, stays one job.")
@click.option("--client", metavar="NAME", help="Who you are, for operators: convq top shows who fills a queue.")
@version_option("Pin a version of the model (the newest).")
@click.option("--outputs", metavar="A,B", help="Raw outputs or feature maps wanted besides the classes.")
@detection_options
@click.option(
    "--save-maps",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write image outputs there, and each set of maps as one grid of tiles (PNG).",
)
@click.option(
    "--save-input",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write what the network was given there, as DIR/<job id>.png.",
)
@click.option("--npy", is_flag=True, help="With --save-input: the array as DIR/<job id>.npy too.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for results, or print job ids.")
@click.option("--timeout", metavar="S", type=float, default=DEFAULT_TIMEOUT_S, show_default=True, help="Longest wait.")
@json_option
def submit(images: tuple[str, ...], address: Address, model: str | None, **given: Any) -> None:
    """Push pictures and show what they are.

    IMAGE is a file, a folder of them, or - for standard input; a .npy file, or an .npz with one array, goes as a tensor in
    the layout of the model's input, without the batch axis. On a terminal the answer is a table; in a pipe, or with
    --json, one line of JSON per picture: the result document and the name of the file. Ends with 1 if any job failed.

    What the convolution layers of a network see is in their maps; `convq models show NAME` says which there are.
    --save-maps DIR writes those that --outputs names as DIR/seven.conv1.png and so on. Without --outputs it writes what
    the model gives by itself, such as the blurred image.

    Where an answer is odd, look at what the network was given: --save-input DIR writes it for each job, as it was put into
    the batch, after decoding, turning, scaling and cropping. Where the network takes numbers, the picture shows the levels
    that they were made of, and --npy writes the numbers as well.

    \b
    convq submit seven.png
    convq submit seven.png --outputs conv1,conv2 --save-maps maps/
    convq submit photo.jpg --model gaussian_blur --save-maps blurred/
    convq submit odd.jpg --save-input seen/ --npy
    convq submit digits/ --model lenet --top-k 1
    convq submit street.jpg --model yolo --min-score 0.5 --only person,dog
    convq submit --json *.png | jq -r '[.file, .predictions[0].label] | @tsv'
    curl -s https://example.org/cat.jpg | convq submit - --model resnet18
    """
    files = _files(images)
    if given["job_id"] is not None and len(files) > 1:
        raise click.UsageError("--id names one job: give one image with it")
    names = {name: name for name in ("top_k", "ttl_ms", "version", "outputs", "client")} | ASKED
    options = {option: given[flag] for flag, option in names.items() if given[flag] is not None}
    programs = for_programs(as_json=given["as_json"])
    for name in ("save_maps", "save_input"):
        if given[name] is not None and not given["wait"]:
            raise click.UsageError(f"--{name.replace('_', '-')} needs the results: leave --no-wait out")
    if given["npy"] and given["save_input"] is None:
        raise click.UsageError("--npy belongs to --save-input DIR")
    with connected(address, model) as client:
        chosen = choose_model(client, model, must_be_served=given["wait"])
        if not given["wait"]:
            _show_ids(_submit(client, files, chosen, given, options), programs=programs)
            return
        savers = _savers(client, chosen, given, options)
        answers = progress(_results(client, files, chosen, given, options), len(files), "computing")
        failed = _show(files, answers, savers, programs=programs)
    if savers.inputs is not None and savers.inputs.trouble:
        raise click.ClickException(savers.inputs.trouble)
    if failed:
        what = "the job" if len(files) == 1 else f"{failed} of {len(files)} jobs"
        raise click.ClickException(f"{what} did not end as ok; the answer says why")


def _files(images: Iterable[str]) -> list[str]:
    """The names of all pictures, folders opened. A folder without pictures is a mistake, not nothing to do."""
    names: list[str] = []
    for image in images:
        if image == STDIN or not Path(image).is_dir():
            names.append(image)
            continue
        inside = sorted(path for path in Path(image).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not inside:
            raise click.UsageError(f"no pictures in {image}: looked for {' '.join(sorted(SUFFIXES))}")
        names += map(str, inside)
    return names


def _payload(name: str) -> Any:
    """A path, or the bytes of what is no file: standard input, or what a shell makes of `<(curl …)`. Of NumPy's files the array."""
    if name == STDIN:
        return sys.stdin.buffer.read()
    if Path(name).suffix.lower() in ARRAYS:
        return _array(name)
    return Path(name) if Path(name).is_file() else Path(name).read_bytes()


def _array(name: str) -> Any:
    """The array of a NumPy file, or the only one of an archive. Raises ClickException for what holds none, or several."""
    try:
        import numpy as np  # noqa: PLC0415 - the base install has no numpy
    except ImportError:
        raise click.ClickException(f"{name}: to read NumPy's files, {install('cpu')}") from None
    try:
        found = np.load(name, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if len(found) != 1:
                raise click.ClickException(
                    f"{name} holds {len(found)} arrays ({', '.join(map(printable, sorted(found)))}); a job is one: np.save it alone"
                )
            return next(iter(found.values()))
    except (ValueError, EOFError, OSError, BadZipFile) as error:
        raise click.ClickException(f"{name} is no file of NumPy with numbers: {error}") from None


def _submit(
    client: Client, files: list[str], model: str, given: dict[str, Any], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Put the jobs into the queue and say under which ids."""
    names = iter(files)
    while chunk := list(islice(names, CHUNK)):
        payloads = [_payload(name) for name in chunk]
        if given["job_id"] is not None:
            ids = [client.submit(payloads[0], model, id=given["job_id"], priority=given["priority"], **options)]
        else:
            ids = client.submit_many(payloads, model, priority=given["priority"], **options)
        yield from ({"file": name, "id": one, "model": model} for name, one in zip(chunk, ids, strict=True))


def _results(
    client: Client, files: list[str], model: str, given: dict[str, Any], options: dict[str, Any]
) -> Iterator[Result]:
    """One image waits at its own result key, so that after a timeout its id can still be asked for; many share an inbox."""
    if len(files) == 1:
        job = next(_submit(client, files, model, given, options))
        yield client.result(job["id"], given["timeout"], model)
        return
    payloads = (_payload(name) for name in files)
    yield from client.map(payloads, model, given["timeout"], priority=given["priority"], **options)


def _show_ids(jobs: Iterable[dict[str, Any]], *, programs: bool) -> None:
    if programs:
        print_json(jobs)
    else:
        print_table(["file", "model", "id"], [[job["file"], job["model"], job["id"]] for job in jobs])


@dataclass(frozen=True, slots=True)
class _Savers:
    """What writes files beside the answers, where that is wanted."""

    maps: MapSaver | None
    inputs: InputSaver | None
    adds_input: bool
    """Whether the input is asked for to be saved alone, and not to be printed."""

    def save(self, name: str, result: Result) -> tuple[Result, dict[str, Any]]:
        """The result as it is to be shown, and what was saved of it."""
        saved: dict[str, Any] = {"saved": self.maps.save(name, result)} if self.maps else {}
        if self.inputs and (written := self.inputs.save(result)):
            saved["input"] = written
        if self.adds_input and result.outputs is not None:
            left = tuple(one for one in result.outputs if one.name != PREPARED)
            result = result.model_copy(update={"outputs": left or None})
        return result, saved


def _savers(client: Client, model: str, given: dict[str, Any], options: dict[str, Any]) -> _Savers:
    """What is to be written; adds to the `options` of the jobs what has to be asked for."""
    if given["save_maps"] is None and given["save_input"] is None:
        return _Savers(None, None, adds_input=False)
    asked = [name.strip() for name in (given["outputs"] or "").split(",") if name.strip()]
    served = client.served().get(model, {})
    maps = inputs = None
    if given["save_input"] is not None:
        inputs = InputSaver(given["save_input"], served, arrays=given["npy"])
        # What comes by itself comes only to jobs that name no outputs.
        come = [one["name"] for one in served.get("outputs", ()) if one.get("meaning") not in UNASKED]
        options["outputs"] = ",".join(dict.fromkeys([*(asked or come), PREPARED]))
    if given["save_maps"] is not None:
        maps = MapSaver(given["save_maps"], [name for name in asked if name != PREPARED], served)
    return _Savers(maps, inputs, adds_input=inputs is not None and PREPARED not in asked)


def _show(files: list[str], results: Iterable[Result], savers: _Savers, *, programs: bool) -> int:
    """Print every result and return how many were not ok."""
    failed = 0
    rows: list[list[str]] = []
    for name, answered in zip(files, results, strict=True):
        result, saved = savers.save(name, answered)
        failed += not result.ok
        if programs:
            print_json([{"file": name, **result.model_dump(mode="json", exclude_none=True, by_alias=True), **saved}])
        elif len(files) == 1 and is_seen(result) and not result.outputs and not saved:
            print_result(result)
        else:
            rows.append([name, *_cells(result, saved)])
    if rows:
        columns = ["file", "class", ">score", "outputs", "input", ">ms"]
        shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
        print_table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows])
        if savers.maps:
            count, folder = savers.maps.written, savers.maps.folder
            print_line(f"{count} file{'' if count == 1 else 's'} written to {folder}")
        if savers.inputs:
            print_line(savers.inputs.summary())
    return failed


def _cells(result: Result, saved: dict[str, Any]) -> list[str]:
    """Class or what went wrong, score, outputs, the file with the input, milliseconds."""
    given = saved.get("input", {})
    best = result.predictions[0] if result.ok and result.predictions else None
    nothing = result.counted() if result.detections is not None else result.told() if result.ok else result.explain()
    first = [best.label, f"{best.score:.1%}"] if best else [nothing, ""]
    return [
        *first,
        "\n".join(printable(_summary(one)) for one in result.outputs or ()),
        Path(given.get("png") or given.get("npy") or "").name,
        f"{result.timing_ms.total:.1f}",
    ]


def _summary(output: Output) -> str:
    """Name, type and size of an output, and the first of its numbers where these are in a row."""
    if output.format is not None:
        width, height = struct.unpack(">II", output.png()[16:24])  # where a PNG says so
        return f"{output.name} {output.format} {width}x{height}"
    said = f"{output.name} {output.dtype} {'x'.join(map(str, output.shape or ())) or 'number'}"
    numbers = _numbers(output)
    return f"{said}: {numbers}" if numbers else said


def _numbers(output: Output) -> str:
    """Up to NUMBERS numbers, with an ellipsis where there are more; nothing of pictures, maps and types of another kind."""
    shape, code = output.shape or (), CODES.get(output.dtype or "")
    if code is None or sum(side != 1 for side in shape) > 1:
        return ""
    first = struct.unpack(
        f"<{min(prod(shape), NUMBERS)}{code}", output.bytes()[: min(prod(shape), NUMBERS) * struct.calcsize(code)]
    )
    return " ".join(f"{number:.6g}" if isinstance(number, float) else str(number) for number in first) + (
        " …" if prod(shape) > NUMBERS else ""
    )
