"""convq: images into Redis, classes out; the inference service behind a message queue.

What a program needs to push jobs and read results is here; the service itself is the command ``convq serve``.
"""

import convq.interpreter  # before anything that the working folder could hold too
import convq.interrupts  # noqa: F401 - before all that takes its time
from convq.client import AsyncClient, Client
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
from convq.protocol import JobState, Output, Prediction, Priority, Result, Status
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
