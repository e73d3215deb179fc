"""Loads the models of a worker that starts: one after the other, but none waits for long for one that may never end."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping

from convq.errors import ConvqError
from convq.ipc.messages import WorkerConfig
from convq.ipc.shared_memory import StatsRow
from convq.threads import Watch
from convq.worker.loaded_model import LoadedModel

BEFORE_THE_NEXT_S = 2.0
"""A model that takes longer to load is loaded beside the next ones, and those that are loaded serve meanwhile."""
POLL_S = 0.05


class Loading:
    """The start of one worker. Each model has a thread, for what its graph does may not come back."""

    def __init__(
        self, orders: WorkerConfig, rows: Mapping[str, StatsRow], watch: Watch, goes_on: Callable[[], bool]
    ) -> None:
        """`rows` are those of the models; nothing is waited for once `goes_on` says no."""
        self._orders, self._service = orders, orders.service
        self._rows = rows
        self._watch = watch
        self.goes_on = goes_on
        self._loaded: queue.SimpleQueue[tuple[str, LoadedModel | ConvqError]] = queue.SimpleQueue()
        self._servings: dict[str, LoadedModel] = {}

    def load(self) -> Iterator[dict[str, LoadedModel]]:
        """What is loaded so far, model -> serving: all of it at once as a rule, else more and more. Raises ConvqError."""
        plans = self._orders.plans  # a model that is passed over has none
        for model in plans:
            self._watch.start(f"{model}-load", self._load_one, model)
            self._gather({model}, BEFORE_THE_NEXT_S)
        while self.goes_on() and len(self._servings) < len(plans):
            if self._servings:
                yield self._servings
            self._gather(set(plans), 2 * POLL_S)
        if self.goes_on():
            yield self._servings

    def _load_one(self, model: str) -> None:
        checked = self._orders.checked.get(model, {})
        folder, plan = self._service.repository / model, self._orders.plans[model]
        try:
            together_bytes = self._service.memory.together_bytes
            made = LoadedModel.load(folder, plan, self._service.device, checked, self._rows[model], together_bytes)
        except ConvqError as error:
            self._loaded.put((model, error))
        else:
            self._loaded.put((model, made))

    def _gather(self, wanted: set[str], within_s: float) -> None:
        """Wait for models to be loaded. Raises what one could not be loaded for."""
        give_up_at = time.monotonic() + within_s
        while self.goes_on() and not wanted <= self._servings.keys() and time.monotonic() < give_up_at:
            try:
                model, made = self._loaded.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(made, ConvqError):
                raise made
            self._servings[model] = made
