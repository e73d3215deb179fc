"""From numbers to samples: the collectors of the one registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from convq.ipc.series import LAYOUT, WORKER_SERIES
from convq.ipc.shared_memory import Board, Series


class BoardCollector(Collector):
    """The workers' numbers as Prometheus samples: counters and histograms summed over workers, gauges per worker.

    `models` are those of the board's places, empty where there is none.
    """

    def __init__(self, board: Board, models: Sequence[str], workers: int) -> None:
        self._board = board
        self._models = models
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """One family per series of the board."""
        totals = {model: self._board.totals(index) for index, model in enumerate(self._models) if model}
        for series in WORKER_SERIES:
            if series.kind == "gauge":
                yield self._gauge(series)
            elif series.kind == "counter":
                yield self._counter(series, totals)
            else:
                yield self._histogram(series, totals)

    def _gauge(self, series: Series) -> Metric:
        gauge = GaugeMetricFamily(series.name, series.help, labels=["model", "worker", *series.label_names])
        for worker in range(self._workers):
            for index, model in enumerate(self._models):
                if not model:
                    continue
                row = self._board.row(worker, index)
                for labels in series.combinations():
                    value = row.get(series.name, *labels)
                    if value or not series.absent_at_zero:
                        gauge.add_metric([model, str(worker), *labels], value)
        return gauge

    def _counter(self, series: Series, totals: Mapping[str, np.ndarray]) -> Metric:
        counter = CounterMetricFamily(series.name, series.help, labels=["model", *series.label_names])
        for model, cells in totals.items():
            for labels in series.combinations():
                counter.add_metric([model, *labels], float(cells[LAYOUT.offset(series.name, labels)]))
        return counter

    def _histogram(self, series: Series, totals: Mapping[str, np.ndarray]) -> Metric:
        histogram = HistogramMetricFamily(series.name, series.help, labels=["model", *series.label_names])
        bounds = [*(f"{bound:g}" for bound in series.buckets), "+Inf"]
        for model, cells in totals.items():
            for labels in series.combinations():
                start = LAYOUT.offset(series.name, labels)
                counts, total = cells[start : start + len(bounds)], float(cells[start + len(bounds)])
                buckets = list(zip(bounds, counts.cumsum().tolist(), strict=True))
                histogram.add_metric([model, *labels], buckets=buckets, sum_value=total)
        return histogram


class FunctionCollector(Collector):
    """Families that a function makes at each scrape."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """What the function gives now."""
        return self._families()
