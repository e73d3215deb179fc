"""The sums of an evaluation, from answers as they come. Holds a few bytes for each picture, and no picture."""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

TOP: Final = 5
"""Whether the right class is among so many is counted for models that have as many."""
MOST_FAILED: Final = 100
"""Pictures without an answer that are named; all are counted."""
MOST_CHANGED: Final = 1000
"""Pictures on which two versions differ that are named; all are counted."""
_Z: Final = 1.959964
"""Of the normal distribution, for an interval of 95 %."""
_NOBODY: Final = -1


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says of one picture."""

    number: int
    classes: Sequence[int]
    """The best ones first, at most `TOP`."""
    score: float
    """Of the best."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no answer for one picture."""

    number: int
    code: str
    message: str


class Tally:
    """Counts what one version says; `truth` is the index of the right class of each picture."""

    def __init__(self, truth: Sequence[int], labels: Sequence[str], worst: int = 10) -> None:
        self.truth, self.labels = truth, labels
        self.said = array("i", [_NOBODY]) * len(truth)
        """The best class of each picture; -1 for those without an answer."""
        self.failed = 0
        self._failures: list[Failed] = []
        self._codes = Counter[str]()
        self._in_top = 0
        self._worst: list[tuple[float, int]] = []
        self._most_worst = worst

    @property
    def answered(self) -> int:
        """Pictures with an answer so far."""
        return len(self.said) - self.said.count(_NOBODY)

    def add(self, answer: Said | Failed) -> None:
        """Take in one more answer."""
        if isinstance(answer, Failed):
            self.failed += 1
            self._codes[answer.code] += 1
            if len(self._failures) < MOST_FAILED:
                self._failures.append(answer)
            return
        number, right = answer.number, self.truth[answer.number]
        self.said[number] = answer.classes[0]
        self._in_top += right in answer.classes[:TOP]
        if answer.classes[0] != right and self._most_worst:
            keep = heapq.heappushpop if len(self._worst) >= self._most_worst else heapq.heappush
            keep(self._worst, (answer.score, -number))

    def document(self, names: Sequence[str]) -> dict[str, Any]:
        """All that is known, JSON-able; `names` are those of the pictures."""
        cells = Counter((right, said) for right, said in zip(self.truth, self.said, strict=True) if said != _NOBODY)
        answered = cells.total()
        labels = self.labels
        return {
            "answered": answered,
            "failed": {
                "count": self.failed,
                "codes": dict(self._codes.most_common()),
                "pictures": [
                    {"picture": names[one.number], "code": one.code, "message": one.message} for one in self._failures
                ],
            },
            "top1": share(sum(count for (right, said), count in cells.items() if right == said), answered),
            "top5": share(self._in_top, answered) if len(labels) >= TOP else None,
            "classes": _per_class(cells, labels),
            "confusion": [
                {"label": labels[right], "said": labels[said], "index": right, "said_index": said, "count": count}
                for (right, said), count in sorted(cells.items())
            ],
            "worst": [
                {
                    "picture": names[-place],
                    "label": labels[self.truth[-place]],
                    "said": labels[self.said[-place]],
                    "score": round(score, 7),
                }
                for score, place in sorted(self._worst, reverse=True)
            ],
        }


def share(right: int, count: int) -> dict[str, Any]:
    """How many of how many, and between which shares the true one lies in 95 of 100 cases (Wilson's interval)."""
    if not count:
        return {"right": 0, "share": None, "low": None, "high": None}
    part, square = right / count, _Z * _Z / count
    middle = (part + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(part * (1 - part) / count + square / (4 * count))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"right": right, "share": round(part, 6), "low": round(low, 6), "high": round(high, 6)}


def _per_class(cells: Counter[tuple[int, int]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Of every class that occurs: pictures that show it, answers that name it, and how many of either are right."""
    support, predicted, right = Counter[int](), Counter[int](), Counter[int]()
    for (truth, said), count in cells.items():
        support[truth] += count
        predicted[said] += count
        right[truth] += count * (truth == said)
    return [
        {
            "label": labels[index],
            "index": index,
            "support": support[index],
            "predicted": predicted[index],
            "right": right[index],
            "precision": _ratio(right[index], predicted[index]),
            "recall": _ratio(right[index], support[index]),
        }
        for index in sorted(support | predicted)
    ]


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def compare(this: Tally, other: Tally, names: Sequence[str]) -> dict[str, Any]:
    """Two versions on the same pictures, those that both have answered: who is right where, and whether that is chance.

    `p` is that of McNemar's exact test: how probable a split of the pictures on which just one is right would be that is at
    least as uneven, if both were equally good.
    """
    counts = Counter[str]()
    changed: list[tuple[int, int]] = []
    pairs = zip(this.truth, other.truth, this.said, other.said, strict=True)
    for number, (truth, other_truth, said, other_said) in enumerate(pairs):
        if _NOBODY in (said, other_said):
            continue
        here, there = said == truth, other_said == other_truth
        counts[
            "both_right" if here and there else "only_this" if here else "only_other" if there else "both_wrong"
        ] += 1
        if this.labels[said] != other.labels[other_said] or here != there:
            order = 0 if there and not here else 1 if here and not there else 2
            changed.append((order, number))
    changed.sort()
    return {
        "pictures": counts.total(),
        **{name: counts[name] for name in ("both_right", "only_this", "only_other", "both_wrong")},
        "p": round(mcnemar(counts["only_this"], counts["only_other"]), 6),
        "changed": len(changed),
        "changed_pictures": [
            {
                "picture": names[number],
                "label": this.labels[this.truth[number]],
                "this": this.labels[this.said[number]],
                "other": other.labels[other.said[number]],
            }
            for _, number in changed[:MOST_CHANGED]
        ],
    }


def mcnemar(one: int, other: int) -> float:
    """Twice the chance that of one + other fair coins no more than the fewer show heads; at most 1."""
    count, fewer = one + other, min(one, other)
    logs = [
        math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) - count * math.log(2)
        for i in range(fewer + 1)
    ]
    most = max(logs)
    return min(1.0, 2 * math.exp(most) * math.fsum(math.exp(log - most) for log in logs))
