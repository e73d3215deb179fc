"""How right digits_detector is: precision, recall and overlaps on pictures that are drawn for this, and what it is bad at.

    python models/evaluate_detector.py               1,000 pictures of digits that it was not trained on: a minute

What is asked is the version in the folder, by the service's own code: a PNG in, detections and masks out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import data  # type: ignore[import-not-found]
import numpy as np
from matching import Found, matched, overlaps  # type: ignore[import-not-found]
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scattered import Canvas, Digits, Scatter  # type: ignore[import-not-found]

from convq.answers.detections import Wanted
from convq.answers.rle import decode as decode_rle
from convq.engine.engine import Engine
from convq.errors import ModelBroken, NonFinite

MODEL = Path(__file__).resolve().parent / "digits_detector"
COUNT = 1000
SEED = 2026  # not that of the training, whose digits are others besides
RIGHT = 0.5  # intersection over union
SMALL_PX, LARGE_PX = 20, 36
FAINT = 90  # levels between the ink and what is around it, in its box


class Digit(NamedTuple):
    """One digit that there is, and what became of it."""

    height_px: float
    contrast: float
    is_covered: bool
    """Whether its box and another one overlap."""
    box_iou: float
    """0 where it was missed."""
    mask_iou: float


class Tally(NamedTuple):
    """All pictures together."""

    digits: list[Digit]
    found: int
    imagined_on_empty: int
    empty: int
    confused: Counter[tuple[int, int]]
    """(is, said) of boxes that are right with labels that are not."""


def main() -> None:
    """Draw, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT, metavar="N", help="pictures")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--min-score", type=float, metavar="S", help="instead of the manifest's")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the whole test set, as IDX files, not its first 1,000"
    )
    args = parser.parse_args()
    digits = Digits(*(data.load(args.data, "t10k") if args.data else data.shipped()))
    engine = Engine.load(MODEL, args.version, device="cpu")
    engine.warm_up()
    scatter = Scatter(digits, args.seed)
    canvases = (scatter.canvas() for _ in range(args.count))
    show(tallied(engine, track(canvases, total=args.count, description="asking"), args.min_score))


def tallied(engine: Engine, canvases: Iterable[Canvas], min_score: float | None = None) -> Tally:
    """What became of every digit of these pictures."""
    tally = Tally([], 0, 0, 0, Counter())
    found_in_all = imagined = empty = 0
    for canvas in canvases:
        found, masks = asked(engine, canvas.image, min_score)
        pairs = {truth: (one, iou) for one, truth, iou in matched(found, canvas.boxes, canvas.labels, RIGHT)}
        found_in_all += len(found.labels)
        if not len(canvas.labels):
            empty, imagined = empty + 1, imagined + len(found.labels)
            continue
        tally.digits.extend(_digits(canvas, pairs, masks))
        over = overlaps(found.boxes, canvas.boxes)
        for one in set(range(len(found.labels))) - {one for one, _ in pairs.values()}:
            if over[one].max() >= RIGHT:
                tally.confused[int(canvas.labels[over[one].argmax()]), int(found.labels[one])] += 1
    return tally._replace(found=found_in_all, imagined_on_empty=imagined, empty=empty)


def asked(engine: Engine, image: NDArray[np.uint8], min_score: float | None) -> tuple[Found, list[NDArray[np.bool_]]]:
    """What the service would find in it, and the masks [height, width]."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    prepared = engine.prepare(engine.decode(file.getvalue()))
    outputs, detector = engine.run([prepared]), engine.detector
    if detector is None:
        raise ModelBroken(f"{MODEL} has no [detections] in its manifest")
    size, placement = detector.size_of(prepared.shape), prepared.placement or detector.placement_of(prepared.shape)
    (found,) = detector.detect(outputs, [Wanted(placement, min_score=min_score)], size)
    if isinstance(found, NonFinite):
        raise found
    entries: list[dict[str, Any]] = detector.written(found, outputs, 0, placement, size, "rle").detections
    boxes = np.array([one["box"] for one in entries], np.float64).reshape(-1, 4)
    labels = np.array([one["index"] for one in entries], np.int64)
    return Found(boxes, labels), [decode_rle(one["mask"]) for one in entries]


def _digits(canvas: Canvas, pairs: dict[int, tuple[int, float]], masks: list[NDArray[np.bool_]]) -> Iterator[Digit]:
    over = overlaps(canvas.boxes, canvas.boxes)
    for index, (x1, y1, x2, y2) in enumerate(canvas.boxes.astype(int)):
        own = canvas.owners == index + 1
        patch, ink = canvas.image[y1:y2, x1:x2], own[y1:y2, x1:x2]
        ground = canvas.owners[y1:y2, x1:x2] == 0
        contrast = abs(patch[ink].mean() - patch[ground].mean()) if ink.any() and ground.any() else 0.0
        one, iou = pairs.get(index, (-1, 0.0))
        mask_iou = (own & masks[one]).sum() / (own | masks[one]).sum() if iou else 0.0
        yield Digit(y2 - y1, float(contrast), int((over[index] > 0).sum()) > 1, iou, float(mask_iou))


def show(tally: Tally) -> None:
    """A table."""
    right = sum(one.box_iou > 0 for one in tally.digits)
    print(
        f"{len(tally.digits)} digits; {tally.found} found, {right} of them right: precision {right / tally.found:.1%}"
    )
    parts: dict[str, Callable[[Digit], bool]] = {
        "all": lambda _: True,
        f"below {SMALL_PX} px": lambda one: one.height_px < SMALL_PX,
        f"{SMALL_PX} to {LARGE_PX} px": lambda one: SMALL_PX <= one.height_px < LARGE_PX,
        f"{LARGE_PX} px and more": lambda one: one.height_px >= LARGE_PX,
        "box alone": lambda one: not one.is_covered,
        "box overlaps another": lambda one: one.is_covered,
        f"below {FAINT} levels of contrast": lambda one: one.contrast < FAINT,
        f"{FAINT} levels and more": lambda one: one.contrast >= FAINT,
    }
    print(f"{'':32}{'digits':>8}{'recall':>9}{'box IoU':>9}{'mask IoU':>10}")
    for name, holds in parts.items():
        some = [one for one in tally.digits if holds(one)]
        seen = [one for one in some if one.box_iou > 0]
        box, mask = (np.mean([getattr(one, key) for one in seen]) for key in ("box_iou", "mask_iou"))
        print(f"{name:32}{len(some):>8}{len(seen) / len(some):>9.1%}{box:>9.3f}{mask:>10.3f}")
    print(f"{tally.imagined_on_empty} imagined in {tally.empty} pictures without a digit")
    worst = ", ".join(f"{is_}: {said} ({count})" for (is_, said), count in tally.confused.most_common(8))
    print(f"right boxes with wrong labels: {sum(tally.confused.values())}, mostly {worst}")


if __name__ == "__main__":
    main()
