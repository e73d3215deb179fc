"""`convq export` in a checkout, with one thing more: the accuracy on a whole test set, in the version's report.

    python models/export.py models/lenet/net.py:LeNet --weights models/lenet/weights.safetensors --data DIR

It is the same command with the same flags (`convq export --help`); only it runs in this process, and the models are
those of this checkout.
"""

from __future__ import annotations

import sys
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from convq.cli.display.output import json_option
from convq.cli.models.export import bar, network_options, preparation_options, request_of, show
from convq.engine.engine import Engine
from convq.errors import ConvqError, SettingsError
from convq.host.extras import install

INTERRUPTED = 130  # as shells say it


@click.command(help=__doc__.split("\n", maxsplit=1)[0])
@network_options
@preparation_options
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="IDX files: measures the accuracy on the whole test set.",
)
@click.option("--dataset", type=click.Choice(["mnist", "fashion"]), default="mnist", show_default=True)
@json_option
def command(data: Path | None, dataset: str, **given: Any) -> Any:
    """Export in this process, which is no service's; returns what was made."""
    from convq.exporter.exporting import export  # noqa: PLC0415 - brings torch, and --help should not need it

    measure = partial(accuracy, idx=data, dataset=dataset) if data else None
    with bar() as step:
        made = export(request_of(given), step, measure)
    show(made, as_json=given["as_json"])
    return made


def main() -> None:
    """Run the command; what goes wrong is one line."""
    try:
        command.main(prog_name="export.py", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConvqError as error:
        print(f"export: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as missing:
        sys.exit(f"export: {missing.name} is not installed; run: {install('models')}")
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)


def accuracy(folder: Path, number: int, *, idx: Path, dataset: str) -> dict[str, Any]:
    """`accuracy` for the report: the share of the whole test set that the service would get right: PNG bytes in, decode, run.

    Raises SettingsError.
    """
    import data  # type: ignore[import-not-found]  # noqa: PLC0415 - beside this script

    engine = Engine.load(folder, number, device="cpu")
    if engine.classes is None:
        raise SettingsError("--data measures how many classes are right; the manifest has no output that means classes")
    try:
        images, labels = data.load(idx, "t10k", dataset)
    except (ValueError, OSError) as err:
        raise SettingsError(str(err)) from err
    right = 0
    for start in range(0, len(images), engine.max_batch):
        some = slice(start, start + engine.max_batch)
        logits = engine.run([engine.prepare(engine.decode(png(image))) for image in images[some]])[engine.classes]
        right += int((logits.argmax(axis=1) == labels[some]).sum())
    return {"accuracy": {"dataset": dataset, "images": len(images), "right": right, "share": right / len(images)}}


def png(image: np.ndarray[Any, Any]) -> bytes:
    """One gray image as a PNG file."""
    out = BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    main()
