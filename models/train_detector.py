"""Trains digits_detector, top to bottom.

    python models/train_detector.py --data DIR         MNIST -> models/digits_detector/weights.safetensors

DIR holds MNIST's training set as IDX files (models/data.py gets them). Every picture is drawn when it is needed, by
scattered.py, and none is seen twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import data  # type: ignore[import-not-found]
import numpy as np
import torch
from digits_detector.net import CLASSES, STRIDE, DigitsDetector  # type: ignore[import-not-found]
from rich.progress import Progress
from safetensors.torch import save_file
from scattered import Canvas, Digits, Scatter  # type: ignore[import-not-found]
from torch.nn import functional

HERE = Path(__file__).resolve().parent

SEED = 7  # any; fixed, so that a second run on the same machine and versions gives the same weights
STEPS = 5000
BATCH = 32
SIDE_PX = 96  # of the pictures: cells see no further than some 100 pixels, so that larger ones would teach nothing else
MASKED = 6  # pictures of a batch whose masks are learned, too: they are learned soon, and cost as much as the rest
LR = 5e-3
WARMING = 60  # steps in which the learning rate climbs to that
COOLING = 350  # steps in which it falls to nothing at the end
WEIGHT_DECAY = 1e-4
THREADS = 1  # one thread adds in one order
NEAR_PX = 6.0  # cells whose centres are that near to a digit's, across and down, answer for it: one to four of them
BOX_SHARE = 2.0  # of the loss, where classes and masks have 1
LONGEST_STEP = 5.0  # of all gradients together: one odd batch must not throw the weights away
SAID_EVERY = 100  # steps, where there is no terminal for a bar
GRID = SIDE_PX // STRIDE


class Batch(NamedTuple):
    """Canvases, and the p cells that answer for a digit."""

    images: torch.Tensor
    """uint8 [n, 1, side, side]."""
    owners: torch.Tensor
    """uint8 [n, side, side], as of a canvas."""
    picture: torch.Tensor
    """int64 [p]: in which picture."""
    cell: torch.Tensor
    """int64 [p]: which cell of it."""
    label: torch.Tensor
    """int64 [p]."""
    box: torch.Tensor
    """float32 [p, 4]: corners in pixels."""
    owner: torch.Tensor
    """int64 [p]: its number in `owners`."""


def main() -> None:
    """Draw, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=HERE / "digits_detector" / "weights.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    try:
        scatter = Scatter(Digits(*data.load(args.data, "train")), SEED, SIDE_PX)
    except ValueError as err:
        sys.exit(f"train_detector: {err}")
    net = DigitsDetector().to(memory_format=torch.channels_last)
    print(net)
    train(net, scatter, args.steps)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, args.out)
    print(f"wrote {args.out} after {time.process_time():.0f} s of the processor")


def train(net: DigitsDetector, scatter: Scatter, steps: int) -> None:
    """So many batches of new canvases."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_share(step, steps))
    with Progress() as progress:
        task = progress.add_task("training", total=steps)
        for step in range(steps):
            said = learn(net, optimizer, scatter)
            schedule.step()
            progress.update(task, advance=1, description=said)
            if not progress.console.is_terminal and step % SAID_EVERY == 0:
                print(f"{step} {said}", flush=True)


def lr_share(step: int, steps: int) -> float:
    """Part of the learning rate: it climbs, stays, and falls to nothing at the end."""
    return min(1.0, (step + 1) / WARMING, (steps - step) / COOLING)


def learn(net: DigitsDetector, optimizer: torch.optim.Optimizer, scatter: Scatter) -> str:
    """One step on a batch; returns what the loss was."""
    batch = batched([turned for _ in range(BATCH // 2) for turned in both_ways(scatter.canvas())])
    half, quarter, eighth = net.seen(normalised(batch.images))
    rows = net.said(eighth)
    prototypes = net.mixed(half[:MASKED], quarter[:MASKED], eighth[:MASKED])
    losses = {"cells": cell_loss(rows, batch), "masks": mask_loss(rows, prototypes, batch)}
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), LONGEST_STEP)
    optimizer.step()
    return ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())


def both_ways(canvas: Canvas) -> tuple[Canvas, Canvas]:
    """As it is, and with light and dark exchanged: two lessons for the price of drawing one."""
    return canvas, canvas._replace(image=255 - canvas.image)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """What the network sees: the exporter puts the same step into the graph."""
    scaled = (images.float() / 255 - DigitsDetector.mean) / DigitsDetector.std
    return scaled.contiguous(memory_format=torch.channels_last)


def batched(canvases: list[Canvas]) -> Batch:
    """Canvases of `SIDE_PX`, and which cells answer for what: of two digits the one whose middle is nearer."""
    centres = (np.stack(np.divmod(np.arange(GRID * GRID), GRID)[::-1], axis=1) + 0.5) * STRIDE
    picture, cell, owner = [], [], []
    for number, canvas in enumerate(canvases):
        if not len(canvas.boxes):
            continue
        middles = (canvas.boxes[:, :2] + canvas.boxes[:, 2:]) / 2
        away = np.abs(centres[:, None] - middles[None]).max(axis=2)
        nearest = away.argmin(axis=1)
        chosen = np.flatnonzero(away.min(axis=1) <= NEAR_PX)
        picture += [number] * len(chosen)
        cell += chosen.tolist()
        owner += nearest[chosen].tolist()
    pairs = list(zip(picture, owner, strict=True))
    return Batch(
        torch.from_numpy(np.stack([canvas.image for canvas in canvases]))[:, None],
        torch.from_numpy(np.stack([canvas.owners for canvas in canvases])),
        torch.tensor(picture, dtype=torch.long),
        torch.tensor(cell, dtype=torch.long),
        torch.tensor([canvases[number].labels[one] for number, one in pairs], dtype=torch.long),
        torch.tensor(np.array([canvases[number].boxes[one] for number, one in pairs]).reshape(-1, 4)),
        torch.tensor(owner, dtype=torch.long) + 1,
    )


def cell_loss(rows: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Of classes and boxes, a cell that answers.

    A class is to be as sure as its box is right, so that the best box of a digit is the surest: the quality focal loss
    of Li et al., "Generalized Focal Loss" (2020), equation 3. Boxes: 1 - GIoU, of Rezatofighi et al. (2019).
    """
    answering = rows[batch.picture, batch.cell]
    right, generalised = alike(corners(answering[:, :4], batch.cell), batch.box)
    wanted = torch.zeros(rows.shape[0], rows.shape[1], CLASSES)
    wanted[batch.picture, batch.cell, batch.label] = right.detach().clamp(0, 1)
    logits = rows[..., 4 : 4 + CLASSES]
    each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    classes = (each * (wanted - logits.sigmoid()).square()).sum()
    return (classes + BOX_SHARE * (1 - generalised).sum()) / max(len(batch.cell), 1)


def corners(values: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """x1, y1, x2, y2 [p, 4] in pixels, of what net.py says of these cells [p]."""
    corner = torch.stack([cell % GRID, cell // GRID], dim=1)
    middle, half = (corner + values[:, :2]) * STRIDE, values[:, 2:].exp() * STRIDE / 2
    return torch.cat([middle - half, middle + half], dim=1)


def alike(some: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and GIoU [p] of boxes [p, 4]."""
    shared = (
        (torch.minimum(some[:, 2:], others[:, 2:]) - torch.maximum(some[:, :2], others[:, :2])).clamp(min=0).prod(1)
    )
    around = (torch.maximum(some[:, 2:], others[:, 2:]) - torch.minimum(some[:, :2], others[:, :2])).prod(1)
    union = (some[:, 2:] - some[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1) - shared
    iou = shared / union
    return iou, iou - (around - union) / around


def mask_loss(rows: torch.Tensor, prototypes: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Of the masks within their boxes, a pixel of a prototype, for the first pictures, of which `prototypes` are.

    Pixels of digits that hide another one are not its own.
    """
    chosen = batch.picture < len(prototypes)
    picture, boxes = batch.picture[chosen], batch.box[chosen]
    weights = rows[picture, batch.cell[chosen], 4 + CLASSES :]
    sums = torch.einsum("pm,pmhw->phw", weights, prototypes[picture])
    wanted = (batch.owners[picture] == batch.owner[chosen, None, None]).float()
    scale = wanted.shape[2] // sums.shape[2]
    wanted = functional.avg_pool2d(wanted[:, None], scale)[:, 0]
    at = (torch.arange(sums.shape[2]) + 0.5) * scale
    low, high = boxes[:, :2, None] - scale, boxes[:, 2:, None] + scale
    across, down = ((at > low[:, axis]) & (at < high[:, axis]) for axis in (0, 1))
    inside = (down[:, :, None] & across[:, None, :]).float()
    each = functional.binary_cross_entropy_with_logits(sums, wanted, reduction="none") * inside
    return (each.sum(dim=(1, 2)) / inside.sum(dim=(1, 2))).sum() / max(len(picture), 1)


if __name__ == "__main__":
    main()
