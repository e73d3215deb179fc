"""`convq submit`: pictures in, a table or JSON lines out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import click

from convq.cli.connection import choose_model, connected, model_option, redis_options
from convq.cli.display.answers import COLUMNS, cells
from convq.cli.display.detections import ASKED, detection_options
from convq.cli.display.labelling import Given, LabelWriter, format_option
from convq.cli.display.output import for_programs, json_option, print_json, print_line, print_table, progress
from convq.cli.display.seen import is_seen, print_result
from convq.cli.saving import UNASKED, InputSaver, MapSaver, PictureSaver, saving_options
from convq.cli.versions import version_option
from convq.client import DEFAULT_TIMEOUT_S, Client
from convq.client.inputs import SUFFIXES
from convq.host.extras import install
from convq.printable import printable
from convq.protocol import PREPARED, Priority, Result
from convq.queue import Address

STDIN = "-"
ARRAYS = (".npy", ".npz")
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
@format_option
@saving_options
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for results, or print job ids.")
@click.option("--timeout", metavar="S", type=float, default=DEFAULT_TIMEOUT_S, show_default=True, help="Longest wait.")
@json_option
def submit(images: tuple[str, ...], address: Address, model: str | None, **given: Any) -> None:
    """Push pictures and show what they are.

    IMAGE is a file, a folder of them, or - for standard input; a .npy file, or an .npz with one array, goes as a tensor in
    the layout of the model's input, without the batch axis. On a terminal the answer is a table; in a pipe, or with
    --json, one line of JSON per picture: the result document and the name of the file. Ends with 1 if any job failed.

    --save DIR draws each answer on its picture, as people see it: boxes, masks, keypoints, classes of pixels, text. --format
    writes the detections of many pictures for labelling tools, all of them in one file on standard output; yolo writes a
    file for each picture, and a classes.txt, into the DIR of --save, which then holds no drawings.

    What the convolution layers of a network see is in their maps; `convq models show NAME` says which there are.
    --save-maps DIR writes those that --outputs names as DIR/seven.conv1.png and so on. Without --outputs it writes what
    the model gives by itself, such as the blurred image.

    Where an answer is odd, look at what the network was given: --save-input DIR writes it for each job, as it was put into
    the batch, after decoding, turning, scaling and cropping. Where the network takes numbers, the picture shows the levels
    that they were made of, and --npy writes the numbers as well.

    \b
    convq submit seven.png
    convq submit street.jpg --model yolo --min-score 0.5 --only person,dog --save drawn/
    convq submit photos/ --model yolo --format coco > photos.json
    convq submit photos/ --model yolo --format yolo --save labels/
    convq submit seven.png --outputs conv1,conv2 --save-maps maps/
    convq submit photo.jpg --model gaussian_blur --save-maps blurred/
    convq submit odd.jpg --save-input seen/ --npy
    convq submit digits/ --model lenet --top-k 1
    convq submit --json *.png | jq -r '[.file, .predictions[0].label] | @tsv'
    curl -s https://example.org/cat.jpg | convq submit - --model resnet18
    """
    pictures = Pictures(images)
    _check_flags(given, len(pictures.given))
    names = {name: name for name in ("top_k", "ttl_ms", "version", "outputs", "client")} | ASKED
    options = {option: given[flag] for flag, option in names.items() if given[flag] is not None}
    programs = for_programs(as_json=given["as_json"])
    with connected(address, model) as client:
        chosen = choose_model(client, model, must_be_served=given["wait"])
        if not given["wait"]:
            _show_ids(_submit(client, pictures, chosen, given, options), programs=programs)
            return
        served = client.served().get(chosen, {})
        writer = None if given["format"] is None else LabelWriter(given, pictures.given, chosen, served, options)
        savers = _savers(pictures, served, given, options)
        answers = progress(_results(client, pictures, chosen, given, options), len(pictures.given), "computing")
        saved = _saved(pictures, answers, savers)
        if writer is not None:
            failed = writer.write((one, result) for one, result, _ in saved)
        else:
            failed = _show(saved, savers, alone=len(pictures.given) == 1, programs=programs)
    _end(savers, failed, len(pictures.given), "it is not in the output" if writer else "the answer says why")


def _check_flags(given: dict[str, Any], count: int) -> None:
    """Raise click.UsageError where flags contradict each other."""
    if given["job_id"] is not None and count > 1:
        raise click.UsageError("--id names one job: give one image with it")
    for name in ("save", "save_maps", "save_input", "format"):
        if given[name] is not None and not given["wait"]:
            raise click.UsageError(f"--{name.replace('_', '-')} needs the results: leave --no-wait out")
    if given["npy"] and given["save_input"] is None:
        raise click.UsageError("--npy belongs to --save-input DIR")
    if given["font"] is not None and given["save"] is None:
        raise click.UsageError("--font belongs to --save DIR")
    if given["format"] is not None and given["as_json"]:
        raise click.UsageError("--format and --json are two forms of one output: give one of them")


class Pictures:
    """What is submitted, each once, and once more for whoever draws on it."""

    def __init__(self, images: Sequence[str]) -> None:
        """Opens folders. One without pictures is a mistake, not nothing to do: raises click.UsageError."""
        self.given = [one for image in images for one in _opened(image, alone=len(images) == 1)]
        self.twice = False
        """Whether each is wanted again: what is no file, standard input for example, is kept until then."""
        self._kept: dict[int, bytes] = {}

    def payload(self, number: int) -> Any:
        """A path, or the bytes of what is no file: standard input, or what a shell makes of `<(curl …)`. Of NumPy's files the array."""
        name = self.given[number].name
        if name != STDIN and Path(name).suffix.lower() in ARRAYS:
            return _array(name)
        if name != STDIN and Path(name).is_file():
            return Path(name)
        content = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        if self.twice:
            self._kept[number] = content
        return content

    def again(self, number: int) -> Any:
        """The same as `payload` once more, for the last time."""
        return self._kept.pop(number) if number in self._kept else self.payload(number)


def _opened(image: str, *, alone: bool) -> Iterator[Given]:
    """One picture, or all those in a folder. Where that is all there is, tools are told of names within it."""
    if image == STDIN or not Path(image).is_dir():
        yield Given(image, "stdin" if image == STDIN else Path(image).name, image)
        return
    inside = sorted(path for path in Path(image).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not inside:
        raise click.UsageError(f"no pictures in {image}: looked for {' '.join(sorted(SUFFIXES))}")
    for path in inside:
        within = path.relative_to(image).as_posix()
        yield Given(str(path), within, within if alone else str(path))


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
    client: Client, pictures: Pictures, model: str, given: dict[str, Any], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Put the jobs into the queue and say under which ids."""
    numbers = iter(range(len(pictures.given)))
    while chunk := list(islice(numbers, CHUNK)):
        payloads = [pictures.payload(number) for number in chunk]
        if given["job_id"] is not None:
            ids = [client.submit(payloads[0], model, id=given["job_id"], priority=given["priority"], **options)]
        else:
            ids = client.submit_many(payloads, model, priority=given["priority"], **options)
        names = [pictures.given[number].name for number in chunk]
        yield from ({"file": name, "id": one, "model": model} for name, one in zip(names, ids, strict=True))


def _results(
    client: Client, pictures: Pictures, model: str, given: dict[str, Any], options: dict[str, Any]
) -> Iterator[Result]:
    """One image waits at its own result key, so that after a timeout its id can still be asked for; many share an inbox."""
    if len(pictures.given) == 1:
        job = next(_submit(client, pictures, model, given, options))
        yield client.result(job["id"], given["timeout"], model)
        return
    payloads = map(pictures.payload, range(len(pictures.given)))
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
    drawings: PictureSaver | None
    adds_input: bool
    """Whether the input is asked for to be saved alone, and not to be printed."""

    def save(self, name: str, picture: Callable[[], Any], result: Result) -> tuple[Result, dict[str, Any]]:
        """The result as it is to be shown, and what was saved of it; `picture` gives what was submitted."""
        saved: dict[str, Any] = {"saved": self.maps.save(name, result)} if self.maps else {}
        if self.drawings and (drawn := self.drawings.save(name, picture, result)):
            saved["drawn"] = drawn
        if self.inputs and (written := self.inputs.save(result)):
            saved["input"] = written
        if self.adds_input and result.outputs is not None:
            left = tuple(one for one in result.outputs if one.name != PREPARED)
            result = result.model_copy(update={"outputs": left or None})
        return result, saved


def _savers(pictures: Pictures, served: Mapping[str, Any], given: dict[str, Any], options: dict[str, Any]) -> _Savers:
    """What is to be written; adds to the `options` of the jobs what has to be asked for."""
    asked = [name.strip() for name in (given["outputs"] or "").split(",") if name.strip()]
    maps = inputs = drawings = None
    if given["save_input"] is not None:
        inputs = InputSaver(given["save_input"], served, arrays=given["npy"])
        # What comes by itself comes only to jobs that name no outputs.
        come = [one["name"] for one in served.get("outputs", ()) if one.get("meaning") not in UNASKED]
        options["outputs"] = ",".join(dict.fromkeys([*(asked or come), PREPARED]))
    if given["save_maps"] is not None:
        maps = MapSaver(given["save_maps"], [name for name in asked if name != PREPARED], served)
    if given["save"] is not None and given["format"] != "yolo":
        drawings = PictureSaver(given["save"], [one.name for one in pictures.given], served, given["font"])
        pictures.twice = True
    return _Savers(maps, inputs, drawings, adds_input=inputs is not None and PREPARED not in asked)


def _saved(
    pictures: Pictures, results: Iterable[Result], savers: _Savers
) -> Iterator[tuple[Given, Result, dict[str, Any]]]:
    """Each picture with its result as it is to be shown, once what is wanted of it was written."""
    for number, (one, answered) in enumerate(zip(pictures.given, results, strict=True)):
        yield one, *savers.save(one.name, partial(pictures.again, number), answered)


def _show(
    answers: Iterable[tuple[Given, Result, dict[str, Any]]], savers: _Savers, *, alone: bool, programs: bool
) -> int:
    """Print every result and return how many were not ok."""
    failed = 0
    rows: list[list[str]] = []
    for one, result, saved in answers:
        failed += not result.ok
        if programs:
            document = result.model_dump(mode="json", exclude_none=True, by_alias=True)
            print_json([{"file": one.name, **document, **saved}])
        elif alone and is_seen(result) and not result.outputs and not saved.keys() - {"drawn"}:
            print_result(result, saved.get("drawn", ""))
        else:
            rows.append([one.name, *cells(result, saved)])
    if rows:
        columns = ["file", *COLUMNS]
        shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
        print_table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows])
        for saver in (savers.maps, savers.inputs, savers.drawings):
            if saver is not None:
                print_line(saver.summary())
    return failed


def _end(savers: _Savers, failed: int, count: int, why: str) -> None:
    """Say what was not drawn. Raises ClickException where files could not be written, or jobs failed."""
    if savers.drawings is not None:
        savers.drawings.say_what_was_not_drawn()
    for saver in (savers.inputs, savers.drawings):
        if saver is not None and saver.trouble:
            raise click.ClickException(saver.trouble)
    if failed:
        what = "the job" if count == 1 else f"{failed} of {count} jobs"
        raise click.ClickException(f"{what} did not end as ok; {why}")
