"""Bytes in, scores out: decode and prepare images, run them through onnxruntime, rank the classes.

Knows neither Redis nor asyncio: without a queue this package is a plain library, and the trainer and the exporter in
`models/` use it as one, so that all three see an image the same way.
"""

import os

# onnxruntime wheels from 1.29 on report to their vendor unless told otherwise, and do it while being imported: the
# switch must be thrown before that. An operator who has set the variable keeps the value.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from convq.inference.image import decode, prepare
from convq.inference.manifest import Manifest
from convq.inference.outputs import Ranking, finite, rank
from convq.inference.repository import ModelFolder, ModelRepository, default_root
from convq.inference.session import Engine, Prepared

__all__ = [
    "Engine",
    "Manifest",
    "ModelFolder",
    "ModelRepository",
    "Prepared",
    "Ranking",
    "decode",
    "default_root",
    "finite",
    "prepare",
    "rank",
]
