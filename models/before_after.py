"""Draws the README's picture of what a convolution does: a photograph before and after, through a real queue.

    python models/before_after.py        writes models/gaussian_blur/before_after.png

The photograph is `coffee` of scikit-image (CC0, by Rachel Michetti), which must be installed. It goes through a service
of its own, with a server of its own, by `convq submit --save-maps`; what that wrote is put side by side.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from convq.client import Client
from convq.embedded import EmbeddedServer
from convq.harness.service_process import ChildService

HERE = Path(__file__).resolve().parent
CROP = (130, 20, 490, 380)  # the cup: left, top, right, bottom
SIDE_PX = 200
CAPTION_PX = 22
GAP_PX = 8
FILTERS = {"gaussian_blur": "blurred", "edges": "edges"}
"""Model -> its output."""
SERVED_WITHIN_S = 30.0


def main() -> None:
    """Cut out, submit, put together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "gaussian_blur" / "before_after.png", metavar="FILE")
    args = parser.parse_args()
    skimage = importlib.util.find_spec("skimage")
    if skimage is None or skimage.origin is None:
        sys.exit("before_after: scikit-image is not installed, whose photograph this is: pip install scikit-image")
    with Image.open(Path(skimage.origin).parent / "data" / "coffee.png") as coffee:
        cup = coffee.convert("RGB").crop(CROP).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    with tempfile.TemporaryDirectory(prefix="convq-before-after-") as scratch:
        photograph = Path(scratch) / "cup.png"
        cup.save(photograph)
        made = filtered(photograph, Path(scratch))
    compose({"before": cup, **made}).save(args.out, optimize=True)
    print(f"wrote {args.out}: {args.out.stat().st_size} bytes")


def filtered(photograph: Path, folder: Path) -> dict[str, Image.Image]:
    """What each filter makes of it, by the model's name. Raises ConvqError, CalledProcessError where a job failed."""
    flags = ("--models", str(HERE), "--only", ",".join(FILTERS), "--workers", "1")
    with EmbeddedServer.start() as server, ChildService("--redis", server.url, *flags) as service:
        service.wait_ready()
        made = {}
        for model, output in FILTERS.items():
            wait_until_served(server.url, model)
            order = [
                sys.executable,
                "-P",
                "-m",
                "convq",
                "submit",
                str(photograph),
                "--redis",
                server.url,
                "--model",
                model,
            ]
            subprocess.run([*order, "--save-maps", str(folder / model)], check=True, stdout=subprocess.DEVNULL)
            with Image.open(folder / model / f"{photograph.stem}.{output}.png") as picture:
                made[model] = picture.convert("RGB")
    service.check_end()
    return made


def wait_until_served(url: str, model: str) -> None:
    """Until the service announces the model, which follows its readiness. Raises TimeoutError."""
    give_up_at = time.monotonic() + SERVED_WITHIN_S
    with Client(url) as client:
        while model not in client.served():
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{model} was not announced within {SERVED_WITHIN_S:g} s")
            time.sleep(0.05)


def compose(pictures: dict[str, Image.Image]) -> Image.Image:
    """The pictures in a row on white, each under its name."""
    step = SIDE_PX + GAP_PX
    row = Image.new("RGB", (step * len(pictures) - GAP_PX, CAPTION_PX + SIDE_PX), "white")
    pen, font = ImageDraw.Draw(row), ImageFont.load_default(size=14)
    for index, (name, picture) in enumerate(pictures.items()):
        pen.text((index * step, 2), name, fill="black", font=font)
        row.paste(picture, (index * step, CAPTION_PX))
    return row


if __name__ == "__main__":
    main()
