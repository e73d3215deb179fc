"""How convq starts Python: never with the files of the working folder, whoever works in it.

Python looks for modules in the working folder first, with `-m` and `-c` and where PYTHONPATH has an empty element; a
`redis.py` or `numpy.py` that lies there would be run with the rights of the service. Imports nothing that could lie there.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib could lie there
"""Where this package lies."""


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours. Use it with `child_environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """The environment for such a command, and for every other child.

    None of our settings is in it: one may hold a password, and a child gets what it needs through a pipe.

    Its PYTHONPATH has whole paths alone, the working folder only where that is named so, and this package's as the last: it
    may have been found in the working folder.
    """
    given = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    folders = [folder for folder in given if os.path.isabs(folder)]  # noqa: PTH117
    if len(folders) < len(given) and (here := _working_folder()):
        whole = [os.path.normpath(os.path.join(here, folder)) for folder in given]  # noqa: PTH118
        folders = [one for one, folder in zip(whole, given, strict=True) if one != here or folder in folders]
    if not ROOT.endswith(("site-packages", "dist-packages")):  # before the standard library these have no place
        folders.append(ROOT)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
    return kept | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(folders))}


def network_environment(device: str) -> dict[str, str]:
    """The same for a child that runs networks on `device`: onnxruntime tells nobody, CUDA numbers devices as nvidia-smi does."""
    environment = child_environment() | {"ORT_DISABLE_TELEMETRY": "1"}
    if device != "cpu":
        environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return environment


def leave_working_folder() -> None:
    """Take the working folder off the path of this process, where this process is the command `convq`.

    Python itself has put it there. Another program, which only imports convq, keeps its path; so does whoever names that
    folder in PYTHONPATH.
    """
    if not (is_the_command("convq") or is_the_command("convq.")):
        return
    here = _working_folder()
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder for folder in sys.path if folder not in ("", here) or (folder and folder in named)]


def _working_folder() -> str:
    """Empty where it is deleted."""
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return ""


def is_the_command(name: str) -> bool:
    """Whether this process is `python -m convq` or the script of that name; for `convq.`, `python -m convq.…`."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word.startswith("-m"):
            module = word[2:] or next(words, "")
            return module == name or (name.endswith(".") and module.startswith(name))
        if word in ("-W", "-X"):
            next(words, "")
        elif not word.startswith("-"):
            return os.path.basename(word) == name  # noqa: PTH119
    return False


leave_working_folder()
