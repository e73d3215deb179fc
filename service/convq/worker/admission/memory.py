"""How a worker divides the memory that it may have: what it claims, what waits, what one picture takes while it is decoded.

Nothing here is reserved. Each part bounds one thing that a client could make as large as it likes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from convq.engine.formats import estimate
from convq.errors import ImageTooLarge
from convq.ipc.allowance import DECODE_BYTES, MIB, Allowance
from convq.queue import Bounds
from convq.worker.loaded_model import LoadedModel

CLAIM_SHARE, WAITING_SHARE = 10, 8
"""These parts of what is left beside the networks, divided among the models."""
FIRST_CLAIM = 8
"""So many jobs are claimed at first, before it is known how large they are."""
LARGE_BYTES = 16 * MIB
"""A picture that takes less while it is decoded is not worth a second thought."""
SMALL_OUTPUTS_BYTES = MIB
"""Nor are outputs of a batch that take less."""
BATCHES_IN_HAND = 2
"""One is published while the next one runs."""


class Memory:
    """One worker's allowance, divided. `base_bytes` is what it takes with its models loaded and nothing to do."""

    def __init__(self, allowance: Allowance, models: int, base_bytes: int) -> None:
        self._allowance = allowance
        self._changed = threading.Condition()
        self._decoding_bytes = 0
        self.together_bytes = allowance.together_bytes
        """What comes of one batch of any model; only that of a single job may be larger."""
        self._held_bytes = 0
        self._waiting: deque[object] = deque()
        self.divide(models, base_bytes)

    def divide(self, models: int, base_bytes: int) -> None:
        """Among so many models, from now on; what was let in before stays."""
        self.base_bytes = base_bytes
        models = max(1, models)
        spare = self._allowance.planned_bytes - base_bytes
        self.too_small = spare < CLAIM_SHARE * models * MIB
        """Whether the models alone take nearly all of it."""
        self.claim_bytes = max(MIB, spare // CLAIM_SHARE // models)
        """Payloads of one delivery to one model; only a single job may be larger."""
        self.waiting_bytes = max(MIB, spare // WAITING_SHARE // models)
        """Prepared inputs of one model that wait for its network; only a single one may be larger."""
        self._decode_bytes = max(LARGE_BYTES, spare // 2)
        limit_bytes = self._allowance.limit_bytes
        self._most_bytes = DECODE_BYTES if limit_bytes is None else max(0, limit_bytes - base_bytes)

    def bounds(self, serving: LoadedModel) -> Bounds:
        """What a worker may claim for a model, and how large its jobs may be."""
        engines = serving.engines.values()
        return Bounds(
            claim_bytes=self.claim_bytes,
            guess_bytes=self.claim_bytes // FIRST_CLAIM,
            image_bytes=max(engine.manifest.limits.max_bytes for engine in engines),
            tensor_bytes=max(engine.largest_tensor_bytes for engine in engines),
        )

    def hold(self, outputs_bytes: int) -> int:
        """Wait for room for what comes of a batch, in turn with the other models; what `let_go` is to be told afterwards.

        Not inside the gate, and not for who runs alone: those who are to make the room pass through it.
        """
        if outputs_bytes < SMALL_OUTPUTS_BYTES:
            return 0
        most_bytes, turn = BATCHES_IN_HAND * self.together_bytes, object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(
                lambda: (
                    self._waiting[0] is turn
                    and (not self._held_bytes or self._held_bytes + outputs_bytes <= most_bytes)
                )
            )
            self._waiting.popleft()
            self._held_bytes += outputs_bytes
            self._changed.notify_all()
        return outputs_bytes

    def let_go(self, held_bytes: int) -> None:
        """What `hold` gave is not needed any more."""
        if held_bytes:
            with self._changed:
                self._held_bytes -= held_bytes
                self._changed.notify_all()

    @contextmanager
    def decoding(self, image: bytes) -> Iterator[None]:
        """Decode this picture inside, when the large ones that others decode leave room for it.

        Raises ImageTooLarge for one that needs more memory than the worker may have at all.
        """
        need = estimate(image).peak_bytes
        if need < LARGE_BYTES:
            yield
            return
        if need + len(image) > self._most_bytes:
            raise ImageTooLarge(
                f"the image takes about {need // MIB} MiB to decode; with --worker-memory as it is, "
                f"{max(0, self._most_bytes - len(image)) // MIB} MiB are left for that"
            )
        with self._changed:
            self._changed.wait_for(
                lambda: not self._decoding_bytes or self._decoding_bytes + need <= self._decode_bytes
            )
            self._decoding_bytes += need
        try:
            yield
        finally:
            with self._changed:
                self._decoding_bytes -= need
                self._changed.notify_all()
