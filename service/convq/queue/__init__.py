"""The only folder that speaks Redis: keys, scripts, the client's side (`Producer`) and the worker's (`WorkQueue`)."""

from convq.queue.commits import PORTION_BYTES, Commits, Committed, Completion
from convq.queue.deliveries import Bounds, Delivery, Lease
from convq.queue.entries import Received, Receiver, refuse_inbox
from convq.queue.keys import Shard
from convq.queue.producer import Producer, Submission
from convq.queue.streams import WorkQueue
from convq.queue.supervision import Accusation, Blame, LeaseKeeper
from convq.queue.transport.address import Address
from convq.queue.transport.wires import AsyncioWire, BlockingWire, at_once

__all__ = [
    "PORTION_BYTES",
    "Accusation",
    "Address",
    "AsyncioWire",
    "Blame",
    "BlockingWire",
    "Bounds",
    "Commits",
    "Committed",
    "Completion",
    "Delivery",
    "Lease",
    "LeaseKeeper",
    "Producer",
    "Received",
    "Receiver",
    "Shard",
    "Submission",
    "WorkQueue",
    "at_once",
    "refuse_inbox",
]
