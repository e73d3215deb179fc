"""convq: images into Redis, classes out; the inference service behind a message queue.

What a program needs to push jobs and read results is here; the service itself is the command ``convq serve``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import convq.interpreter  # before anything that the working folder could hold too
import convq.interrupts  # noqa: F401 - before all that takes its time

if TYPE_CHECKING:
    from convq.client import AsyncClient, Client
    from convq.detected import Output
    from convq.errors import (
        Answered,
        ConvqError,
        JobFailed,
        JobHeld,
        QueueFull,
        RedisRefused,
        RedisUnavailable,
        ResultGone,
        ResultTimeout,
        UnknownModel,
    )
    from convq.protocol import JobState, Prediction, Priority, Result, Status
    from convq.queue import Address

__version__ = "0.1.0"

__all__ = [
    "Address",
    "Answered",
    "AsyncClient",
    "Client",
    "ConvqError",
    "JobFailed",
    "JobHeld",
    "JobState",
    "Output",
    "Prediction",
    "Priority",
    "QueueFull",
    "RedisRefused",
    "RedisUnavailable",
    "Result",
    "ResultGone",
    "ResultTimeout",
    "Status",
    "UnknownModel",
    "__version__",
]

_HOMES = (
    ("convq.client", ("AsyncClient", "Client")),
    ("convq.detected", ("Output",)),
    ("convq.protocol", ("JobState", "Prediction", "Priority", "Result", "Status")),
    ("convq.queue", ("Address",)),
)
"""Where the names above are made; those that are not here, in `convq.errors`."""


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: workers and confined children begin here, too, and need no client."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((module for module, names in _HOMES if name in names), "convq.errors")
    made = globals()[name] = getattr(import_module(home), name)
    return made


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
