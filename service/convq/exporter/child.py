"""The process that exports for `importer/exporting.py`: a question on standard input, lines of JSON on standard output."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, Final, NoReturn, TextIO

from convq.errors import ConvqError, ExportRefused
from convq.host.death_signal import die_with
from convq.host.extras import install
from convq.importer.exporting import ExportRequest

INTERRUPTED: Final = 130
EXTRA: Final = frozenset({"torch", "onnx", "onnxscript", "safetensors", "onnxruntime", "numpy", "PIL"})
"""What the extra `models` brings."""


def main() -> NoReturn:
    """Read the question, export, answer. Whatever libraries and networks print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if sys.platform == "linux":
        die_with(os.getppid())
    request = ExportRequest.from_json(json.loads(sys.stdin.buffer.readline()))
    try:
        answer = _answer(request, answers)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    _say(answers, answer)
    os._exit(0)  # the answer is out, and no destructor of a library may hold the process


def _answer(request: ExportRequest, answers: TextIO) -> dict[str, Any]:
    try:
        from convq.exporter.exporting import export  # noqa: PLC0415 - brings torch, which may be missing

        made = export(request, lambda doing, steps: _say(answers, {"step": doing, "steps": steps}))
        return {"ok": True, "made": made.to_json()}
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            return _refusal(error, f"unexpected ModuleNotFoundError: {error}")
        return _refusal(
            error, f"this needs PyTorch and its exporter, and {package} is not installed; run: {install('models')}"
        )
    except ConvqError as error:
        return {**_refusal(error, str(error)), "code": error.code}
    except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked waits for an answer
        return _refusal(error, f"unexpected {type(error).__name__}: {error} (convq --debug … shows where)")


def _refusal(error: BaseException, reason: str) -> dict[str, Any]:
    shown = "".join(traceback.format_exception(error))
    return {"ok": False, "code": ExportRefused.code, "reason": " ".join(reason.split()), "traceback": shown}


def _say(answers: TextIO, document: dict[str, Any]) -> None:
    answers.write(json.dumps(document) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
