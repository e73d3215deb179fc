"""YOLO's text format, a file for each picture, as ultralytics writes predictions with `save_txt` and `save_conf`."""

from __future__ import annotations

from convq.protocol import Result


def yolo(result: Result) -> str:
    """A line `index cx cy w h score` for each detection, best first: centre and sides as shares of the picture, six decimals.

    Boxes alone: masks, keypoints and corners are left out. Empty where nothing was found. ValueError where the result does not
    say how large its picture is.
    """
    if result.image is None:
        raise ValueError(f"job {result.id} does not say how large its picture is")
    width, height = result.image.width, result.image.height
    lines = []
    for one in result.detections or ():
        x1, y1, x2, y2 = one.box
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{one.index} {' '.join(f'{share:.6f}' for share in shares)} {one.score:.6f}\n")
    return "".join(lines)
