"""One step of a beat: whatever it ends by, the next one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convq.errors import ConvqError, RedisUnavailable, StrangeKey
from convq.supervisor.beat.troubles import Troubles


class Steps:
    """Takes steps, and keeps what went wrong in `troubles`. `why` says which keys of a model hold something else."""

    def __init__(self, troubles: Troubles, why: Callable[[str], str]) -> None:
        self._troubles = troubles
        self._why = why

    def run(self, model: str, step: str, work: Callable[..., None], *given: Any) -> None:
        """One step, for one model ("": for none of them). Raises RedisUnavailable alone."""
        try:
            work(*given)
        except RedisUnavailable:
            raise
        except StrangeKey as error:
            self._troubles.note(model, step, self._why(model) or str(error))
        except ConvqError as error:
            self._troubles.note(model, step, str(error))
        except Exception as error:  # noqa: BLE001 - a defect, or bytes that nobody has thought of; said, and not for all
            self._troubles.note(model, step, f"a step failed: {error!r}", error=error)
        else:
            self._troubles.over(model, step)
