"""Detectors in plain loops: what each family's outputs say, written down from its maker's formula, and their inverse.

Nothing here is fast, and nothing of convq is used: a second way to the same boxes, in pixels of the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Outputs = dict[str, NDArray[Any]]
Point = tuple[float, ...]
HEIGHT, WIDTH = 64, 96
CELLS = [
    (stride, row, column)
    for stride in (8, 16, 32)
    for row in range(HEIGHT // stride)
    for column in range(WIDTH // stride)
]
"""Stride, row and column of each cell, in the order of the rows of every dense detector."""
PEOPLE = 17


class Thing(NamedTuple):
    """One object: its class, score, x1 y1 x2 y2, keypoints and mask weights."""

    kind: int
    score: float
    box: tuple[float, float, float, float]
    points: tuple[Point, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def centre(self) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def from_centre(cx: float, cy: float, w: float, h: float) -> tuple[float, float, float, float]:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def logit(score: float) -> float:
    return math.log(score / (1 - score))


def softmax(values: Iterable[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def numbers(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values]


def best(scores: Sequence[float]) -> tuple[int, float]:
    index = max(range(len(scores)), key=lambda one: scores[one])
    return index, scores[index]


def triples(values: Sequence[float], each: int) -> tuple[Point, ...]:
    return tuple(tuple(values[at : at + each]) for at in range(0, len(values), each))


class Family(NamedTuple):
    """How things are written into outputs, and read from them."""

    blank: Callable[[int, int], Outputs]
    """(jobs, classes) -> outputs in which nothing is."""
    write: Callable[[Outputs, int, int, Thing], None]
    """Into the outputs, of this job, at this row."""
    read: Callable[[Outputs, int, int], Iterator[Thing]]
    """(outputs, job, classes) -> everything, whatever its score."""
    rows: int
    """Rows a job."""
    extra: tuple[int, int, int] = (0, 0, 0)
    """Keypoints, numbers each, mask weights."""


# ------------------------------------------------------------------------------------------- dense, decoded in the graph


def _yolo(*, objectness: bool, rows_first: bool, extra: tuple[int, int, int] = (0, 0, 0)) -> Family:
    first = 5 if objectness else 4
    rows = 3 * len(CELLS) if objectness else len(CELLS)
    keypoints, each, weights = extra

    def blank(jobs: int, classes: int) -> Outputs:
        columns = first + classes + keypoints * each + weights
        shape = (jobs, rows, columns) if rows_first else (jobs, columns, rows)
        more = {"output1": np.zeros((jobs, weights, HEIGHT // 4, WIDTH // 4), np.float32)} if weights else {}
        return {"output0": np.zeros(shape, np.float32), **more}

    def table(outputs: Outputs, job: int) -> NDArray[Any]:
        values = np.asarray(outputs["output0"][job])
        return values if rows_first else values.T

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        line = table(outputs, job)[row]
        line[:4] = thing.centre
        classes = len(line) - first - keypoints * each - weights
        if objectness:
            line[4], line[5 + thing.kind] = 0.96, thing.score / 0.96
        else:
            line[4 + thing.kind] = thing.score
        line[first + classes :] = [*(value for point in thing.points for value in point), *thing.weights]

    def read(outputs: Outputs, job: int, classes: int) -> Iterator[Thing]:
        for line in table(outputs, job):
            values = numbers(line)
            index, score = best(values[first : first + classes])
            rest = values[first + classes :]
            points, masks = rest[: keypoints * each], rest[keypoints * each :]
            whole = score * values[4] if objectness else score
            yield Thing(index, whole, from_centre(*values[:4]), triples(points, each or 1), tuple(masks))

    return Family(blank, write, read, rows, extra)


def _end_to_end(extra: tuple[int, int, int] = (0, 0, 0)) -> Family:
    keypoints, each, weights = extra

    def blank(jobs: int, _: int) -> Outputs:
        more = {"output1": np.zeros((jobs, weights, HEIGHT // 4, WIDTH // 4), np.float32)} if weights else {}
        return {"output0": np.zeros((jobs, 20, 6 + keypoints * each + weights), np.float32), **more}

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        points = [value for point in thing.points for value in point]
        outputs["output0"][job, row] = [*thing.box, thing.score, thing.kind, *points, *thing.weights]

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        for line in outputs["output0"][job]:
            x1, y1, x2, y2, score, index, *rest = numbers(line)
            points, masks = rest[: keypoints * each], rest[keypoints * each :]
            yield Thing(round(index), score, (x1, y1, x2, y2), triples(points, each or 1), tuple(masks))

    return Family(blank, write, read, 20, extra)


# ------------------------------------------------------------------------------------------------------------ grids


def _yolox() -> Family:
    def blank(jobs: int, classes: int) -> Outputs:
        return {"output": np.zeros((jobs, len(CELLS), 5 + classes), np.float32)}

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        stride, j, i = CELLS[row]
        cx, cy, w, h = thing.centre
        line = outputs["output"][job, row]
        line[:4] = cx / stride - i, cy / stride - j, math.log(w / stride), math.log(h / stride)
        line[4], line[5 + thing.kind] = 0.99, thing.score / 0.99

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        for (stride, j, i), line in zip(CELLS, outputs["output"][job], strict=True):
            x, y, w, h, objectness, *classes = numbers(line)
            index, score = best(classes)
            box = from_centre((i + x) * stride, (j + y) * stride, math.exp(w) * stride, math.exp(h) * stride)
            yield Thing(index, score * objectness, box)

    return Family(blank, write, read, len(CELLS))


def _by_stride(outputs: Outputs, name: str, job: int) -> list[list[float]]:
    return [numbers(line) for stride in (8, 16, 32) for line in outputs[f"{name}_{stride}"][job]]


def _strided_blank(names: dict[str, int], per_cell: int) -> Callable[[int, int], Outputs]:
    def blank(jobs: int, _: int) -> Outputs:
        made: Outputs = {}
        for stride in (8, 16, 32):
            rows = (HEIGHT // stride) * (WIDTH // stride) * per_cell
            made |= {f"{name}_{stride}": np.zeros((jobs, rows, columns), np.float32) for name, columns in names.items()}
        return made

    return blank


def _put(outputs: Outputs, job: int, row: int, stride: int, values: dict[str, Sequence[float]]) -> None:
    """At a row that is counted over all strides."""
    name = next(iter(values))
    before = sum(outputs[f"{name}_{smaller}"].shape[1] for smaller in (8, 16, 32) if smaller < stride)
    for name, line in values.items():
        outputs[f"{name}_{stride}"][job, row - before] = line


def _scrfd() -> Family:
    cells = [cell for cell in CELLS for _ in range(2)]

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        stride, j, i = cells[row]
        px, py = i * stride, j * stride
        x1, y1, x2, y2 = thing.box
        sides = [(px - x1) / stride, (py - y1) / stride, (x2 - px) / stride, (y2 - py) / stride]
        points = [value for x, y in thing.points for value in ((x - px) / stride, (y - py) / stride)]
        _put(outputs, job, row, stride, {"score": [thing.score], "bbox": sides, "kps": points})

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        columns = (_by_stride(outputs, name, job) for name in ("score", "bbox", "kps"))
        for (stride, j, i), (score,), (left, top, right, bottom), points in zip(cells, *columns, strict=True):
            px, py = i * stride, j * stride
            box = (px - left * stride, py - top * stride, px + right * stride, py + bottom * stride)
            yield Thing(0, score, box, tuple((px + x * stride, py + y * stride) for x, y in triples(points, 2)))

    return Family(_strided_blank({"score": 1, "bbox": 4, "kps": 10}, 2), write, read, len(cells), (5, 2, 0))


def _yunet() -> Family:
    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        stride, j, i = CELLS[row]
        cx, cy, w, h = thing.centre
        box = [cx / stride - i, cy / stride - j, math.log(w / stride), math.log(h / stride)]
        points = [value for x, y in thing.points for value in (x / stride - i, y / stride - j)]
        scores: dict[str, Sequence[float]] = {"cls": [thing.score**2 / 0.98], "obj": [0.98]}
        _put(outputs, job, row, stride, {**scores, "bbox": box, "kps": points})

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        columns = (_by_stride(outputs, name, job) for name in ("cls", "obj", "bbox", "kps"))
        for (stride, j, i), (one,), (other,), (x, y, w, h), points in zip(CELLS, *columns, strict=True):
            score = math.sqrt(min(max(one, 0), 1) * min(max(other, 0), 1))
            box = from_centre((i + x) * stride, (j + y) * stride, math.exp(w) * stride, math.exp(h) * stride)
            yield Thing(0, score, box, tuple(((i + x) * stride, (j + y) * stride) for x, y in triples(points, 2)))

    return Family(_strided_blank({"cls": 1, "obj": 1, "bbox": 4, "kps": 10}, 1), write, read, len(CELLS), (5, 2, 0))


def _blazeface() -> Family:
    cells = [(8, j, i) for j in range(HEIGHT // 8) for i in range(WIDTH // 8) for _ in range(2)]
    cells += [(16, j, i) for j in range(HEIGHT // 16) for i in range(WIDTH // 16) for _ in range(6)]

    def blank(jobs: int, _: int) -> Outputs:
        empty = np.zeros((jobs, len(cells), 16), np.float32)
        return {"regressors": empty, "classificators": np.full((jobs, len(cells), 1), -100, np.float32)}

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        stride, j, i = cells[row]
        px, py = (i + 0.5) * stride, (j + 0.5) * stride
        cx, cy, w, h = thing.centre
        points = [value for x, y in thing.points for value in (x - px, y - py)]
        outputs["regressors"][job, row] = [cx - px, cy - py, w, h, *points]
        outputs["classificators"][job, row] = logit(thing.score)

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        lines = zip(cells, outputs["regressors"][job], outputs["classificators"][job], strict=True)
        for (stride, j, i), line, (raw,) in lines:
            # MediaPipe: in parts of the input, from the anchor's centre in the same parts
            ax, ay = (i + 0.5) / (WIDTH / stride), (j + 0.5) / (HEIGHT / stride)
            x, y, w, h, *points = numbers(line)
            parts = from_centre(x / WIDTH + ax, y / HEIGHT + ay, w / WIDTH, h / HEIGHT)
            box = (parts[0] * WIDTH, parts[1] * HEIGHT, parts[2] * WIDTH, parts[3] * HEIGHT)
            places = tuple(((x / WIDTH + ax) * WIDTH, (y / HEIGHT + ay) * HEIGHT) for x, y in triples(points, 2))
            yield Thing(0, sigmoid(min(max(float(raw), -80), 80)), box, places)

    return Family(blank, write, read, len(cells), (6, 2, 0))


# ---------------------------------------------------------------------------------------- scores and boxes side by side


def _unit(box: Sequence[float]) -> list[float]:
    return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]


def _pixels(parts: Sequence[float]) -> tuple[float, float, float, float]:
    return parts[0] * WIDTH, parts[1] * HEIGHT, parts[2] * WIDTH, parts[3] * HEIGHT


def _boxes() -> Family:
    def blank(jobs: int, classes: int) -> Outputs:
        scores = np.zeros((jobs, 40, classes + 1), np.float32)
        scores[..., 0] = 1
        return {"scores": scores, "boxes": np.zeros((jobs, 40, 4), np.float32)}

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        outputs["scores"][job, row, [0, thing.kind + 1]] = 1 - thing.score, thing.score
        outputs["boxes"][job, row] = _unit(thing.box)

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        for scores, parts in zip(outputs["scores"][job], outputs["boxes"][job], strict=True):
            yield Thing(*best(numbers(scores)[1:]), _pixels(numbers(parts)))

    return Family(blank, write, read, 40)


def _detr(*, focal: bool) -> Family:
    def blank(jobs: int, classes: int) -> Outputs:
        scores = np.full((jobs, 40, classes if focal else classes + 1), -9, np.float32)
        if not focal:
            scores[..., -1] = 9
        return {"logits": scores, "pred_boxes": np.full((jobs, 40, 4), 0.5, np.float32)}

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        line = outputs["logits"][job, row]
        # softmax: of two that matter, the others being as good as nothing
        line[thing.kind] = logit(thing.score)
        if not focal:
            line[:-1][np.arange(len(line) - 1) != thing.kind] = -50
            line[-1] = 0
        cx, cy, w, h = thing.centre
        outputs["pred_boxes"][job, row] = cx / WIDTH, cy / HEIGHT, w / WIDTH, h / HEIGHT

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        for scores, parts in zip(outputs["logits"][job], outputs["pred_boxes"][job], strict=True):
            box = from_centre(*_pixels(numbers(parts)))
            if focal:
                yield from (Thing(index, sigmoid(score), box) for index, score in enumerate(numbers(scores)))
            else:
                yield Thing(*best(softmax(numbers(scores))[:-1]), box)

    return Family(blank, write, read, 40)


def _torchvision() -> Family:
    def blank(_: int, __: int) -> Outputs:
        shape = {"boxes": (20, 4), "scores": (20,)}
        return {name: np.zeros(sides, np.float32) for name, sides in shape.items()} | {"labels": np.ones(20, np.int64)}

    def write(outputs: Outputs, _: int, row: int, thing: Thing) -> None:
        outputs["boxes"][row], outputs["scores"][row], outputs["labels"][row] = thing.box, thing.score, thing.kind + 1

    def read(outputs: Outputs, _: int, __: int) -> Iterator[Thing]:
        for box, score, label in zip(outputs["boxes"], outputs["scores"], outputs["labels"], strict=True):
            x1, y1, x2, y2 = numbers(box)
            yield Thing(int(label) - 1, float(score), (x1, y1, x2, y2))

    return Family(blank, write, read, 20)


def _tensorflow() -> Family:
    def blank(jobs: int, _: int) -> Outputs:
        made: Outputs = {"detection_boxes": np.zeros((jobs, 20, 4), np.float32)}
        made |= {f"detection_{name}": np.zeros((jobs, 20), np.float32) for name in ("classes", "scores")}
        return {**made, "num_detections": np.full(jobs, 20, np.float32)}

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        x1, y1, x2, y2 = _unit(thing.box)
        outputs["detection_boxes"][job, row] = y1, x1, y2, x2
        outputs["detection_classes"][job, row] = thing.kind + 1
        outputs["detection_scores"][job, row] = thing.score

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        names = ("detection_boxes", "detection_classes", "detection_scores")
        for (y1, x1, y2, x2), label, score in zip(*(outputs[name][job] for name in names), strict=True):
            yield Thing(int(label) - 1, float(score), _pixels(numbers([x1, y1, x2, y2])))

    return Family(blank, write, read, 20)


def _paddle() -> Family:
    def blank(jobs: int, _: int) -> Outputs:
        rows = np.zeros((jobs * 20, 6), np.float32)
        rows[:, 0] = -1
        return {"bbox": rows, "bbox_num": np.full(jobs, 20, np.int32)}

    def write(outputs: Outputs, job: int, row: int, thing: Thing) -> None:
        outputs["bbox"][job * 20 + row] = [thing.kind, thing.score, *thing.box]

    def read(outputs: Outputs, job: int, _: int) -> Iterator[Thing]:
        first = int(outputs["bbox_num"][:job].sum())
        for line in outputs["bbox"][first : first + int(outputs["bbox_num"][job])]:
            index, score, x1, y1, x2, y2 = numbers(line)
            if index >= 0:
                yield Thing(round(index), score, (x1, y1, x2, y2))

    return Family(blank, write, read, 20)


FAMILIES = {
    "yolo5": _yolo(objectness=True, rows_first=True),
    "yolo8": _yolo(objectness=False, rows_first=False),
    "yolo8-seg": _yolo(objectness=False, rows_first=False, extra=(0, 0, 32)),
    "yolo8-pose": _yolo(objectness=False, rows_first=False, extra=(PEOPLE, 3, 0)),
    "yolo10": _end_to_end(),
    "yolo10-seg": _end_to_end((0, 0, 32)),
    "yolo10-pose": _end_to_end((PEOPLE, 3, 0)),
    "yolox": _yolox(),
    "boxes": _boxes(),
    "torchvision": _torchvision(),
    "tensorflow": _tensorflow(),
    "paddle": _paddle(),
    "detr": _detr(focal=False),
    "rtdetr": _detr(focal=True),
    "scrfd": _scrfd(),
    "yunet": _yunet(),
    "blazeface": _blazeface(),
}


# ------------------------------------------------------------------------------------------------- suppression, placing


def union_share(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection by union."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide * tall / (sum(areas) - wide * tall)


def suppressed(things: Iterable[Thing], iou: float, rule: str) -> list[Thing]:
    """What is left, best first: one after the other, each against all that are kept."""
    falling = sorted(things, key=lambda thing: -thing.score)
    if rule == "none":
        return falling
    kept: list[Thing] = []
    members: list[list[Thing]] = []
    for thing in falling:
        for place, better in enumerate(kept):
            if (rule == "agnostic" or better.kind == thing.kind) and union_share(better.box, thing.box) > iou:
                members[place].append(thing)
                break
        else:
            kept.append(thing)
            members.append([thing])
    return [mean(group) for group in members] if rule == "weighted" else kept


def mean(group: Sequence[Thing]) -> Thing:
    """The best of a group, at the mean of all places, by their scores."""
    total = sum(thing.score for thing in group)

    def middle(values: Iterable[float]) -> float:
        return sum(value * thing.score for value, thing in zip(values, group, strict=True)) / total

    x1, y1, x2, y2 = (middle([thing.box[side] for thing in group]) for side in range(4))
    points = [
        tuple(middle([thing.points[at][axis] for thing in group]) for axis in range(len(group[0].points[at])))
        for at in range(len(group[0].points))
    ]
    return group[0]._replace(box=(x1, y1, x2, y2), points=tuple(points))
