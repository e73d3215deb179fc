"""Bytes in, scores out: decode and prepare images, run them through onnxruntime, rank the classes.

Knows neither Redis nor asyncio: without a queue this package is a plain library, and the trainer and the exporter in
`models/` use it as one, so that all three see an image the same way.

Import what you need from its modules: `engine.Engine`, `image.decode` and `image.prepare`, `postprocess.rank`. Nothing is
offered here, because only `onnx_session` needs onnxruntime, whose import takes longer than everything else together: who asks
for a picture's size must not wait for it.
"""

import os

# onnxruntime wheels from 1.29 on report to their vendor unless told otherwise, and do it while being imported: the
# switch must be thrown before that. An operator who has set the variable keeps the value.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
