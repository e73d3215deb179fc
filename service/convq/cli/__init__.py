"""The command `convq`: reads flags, calls the parts, prints. Decides nothing that the parts should decide.

Commands import what is heavy (onnxruntime, rich, the supervisor) when they run, so that `convq --help` does not wait.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import click

import convq
from convq import interrupts
from convq.cli.bench import bench
from convq.cli.chaos import chaos
from convq.cli.dead import dead
from convq.cli.demo import demo
from convq.cli.display.output import print_line
from convq.cli.display.streams import complain, end_output, is_of_output, make_usable
from convq.cli.doctor import doctor
from convq.cli.jobs import jobs
from convq.cli.models import models
from convq.cli.models.export import export
from convq.cli.serve import serve
from convq.cli.submit import submit
from convq.cli.top import top
from convq.errors import ConvqError
from convq.host.extras import install
from convq.masking import echoed, masked
from convq.settings import check_variables

DONE = 0
FAILED = 1  # a job was not answered "ok", the service gave up, a check found a problem
WRONG_USAGE = 2  # an unknown flag, a setting that is unknown or malformed
MODEL_BROKEN = 3  # a folder of the model repository cannot be served
REDIS_REFUSED = 4  # no Redis there, or it is too old, or it refuses the credentials
INTERRUPTED = 130  # Ctrl-C; what shells expect: 128 + SIGINT

ENGINE = {"onnxruntime", "numpy", "PIL", "prometheus_client"}
"""Imports that the base install, which is the client, does not bring."""

_EXTRA = re.compile(r"(Got unexpected extra arguments?) \(.*\)", re.DOTALL)
"""Half of a password, where a shell has cut it in two at a space."""
_REFUSED = re.compile(r"^(Invalid value[^:]*: )['\"](.*)['\"]( is not? )", re.DOTALL)
"""A value, before what is wrong with it."""


@dataclass(slots=True)
class Run:
    """What the group's own flags say about this run of the command."""

    debug: bool = False


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 a model is broken, 4 Redis refused or too old, "
    "130 interrupted.",
)
@click.version_option(convq.__version__, prog_name="convq", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
@click.pass_context
def commands(context: click.Context, *, debug: bool) -> None:
    """Classify images with a CNN behind a Redis queue: one XADD in, one answer out.

    \b
    convq demo                      see it work, in a minute, with nothing installed
    convq serve                     keep it running
    convq submit seven.png          your own picture
    convq export net.py:Net …       your own network, from PyTorch
    convq top                       what waits, who works on it, who fills it
    convq doctor                    what is wrong, and the command that mends it
    """
    context.find_object(Run).debug = debug  # type: ignore[union-attr]  # main() always passes one
    check_variables(os.environ)
    if context.invoked_subcommand is None:
        print_line(context.get_help(), err=True)
        context.exit(WRONG_USAGE)


for _command in (demo, serve, submit, models, export, jobs, dead, bench, chaos, top, doctor):
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (None: those of this process) and return the exit code."""
    run = Run()
    try:
        interrupts.unwind()
        make_usable()
    except KeyboardInterrupt:
        return INTERRUPTED
    code = _run(arguments, run)
    trouble = end_output()
    if trouble:
        _complain(f"standard output cannot be written: {trouble}")
    return code if trouble is None else code or FAILED


def _run(arguments: Sequence[str] | None, run: Run) -> int:
    try:
        given = None if arguments is None else list(arguments)
        code = commands.main(given, prog_name="convq", standalone_mode=False, obj=run)
    except (click.Abort, KeyboardInterrupt):  # click turns Ctrl-C into this, in most places
        return INTERRUPTED
    except (click.ClickException, ConvqError) as error:
        _complain(str(error) if isinstance(error, ConvqError) else _usage(error))
        if run.debug:
            for note in getattr(error, "__notes__", ()):
                complain(masked(note.rstrip()))
        return error.exit_code
    except BrokenPipeError:  # whoever read our output has seen enough
        return FAILED
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line instead of a traceback
        return _unexpected(error, run)
    return code if isinstance(code, int) else DONE


def _usage(error: click.ClickException) -> str:
    message = _EXTRA.sub(r"\1", error.format_message().rstrip("."))
    if isinstance(error, click.BadParameter):
        message = _REFUSED.sub(lambda found: f"{found[1]}{echoed(found[2])}{found[3]}", message)
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message}; see {context.command_path} --help" if context else message


def _unexpected(error: Exception, run: Run) -> int:
    if is_of_output(error):
        end_output()
        _complain(f"standard output cannot be written: {getattr(error, 'strerror', error)}")
    elif isinstance(error, OSError) and error.errno == errno.EFBIG:
        _complain(
            "files and shared memory may not be as large here as they must be: raise the limit that ulimit -f sets"
        )
    elif run.debug:
        complain(masked(traceback.format_exc().rstrip()))
    elif isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in ENGINE:
        _complain(f"this needs the engine, and {error.name} is not installed; run: {install('cpu')}")
    else:
        _complain(f"unexpected {type(error).__name__}: {error} (convq --debug … shows where)")
    return FAILED


def _complain(message: str) -> None:
    """One line, whatever the message holds."""
    complain(f"convq: {masked(' '.join(message.split()))}")
