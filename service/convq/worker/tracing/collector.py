"""Whether traces are sent and of which jobs, as the setting and the standard OTEL_* variables say. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

from convq.errors import SettingsError
from convq.host.extras import install
from convq.masking import echoed
from convq.printable import excerpt

PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
SAMPLERS = {"parentbased_always_on": 1.0, "parentbased_always_off": 0.0, "parentbased_traceidratio": None}
"""Values of OTEL_TRACES_SAMPLER -> share of the jobs without a trace that get one; None: what the argument says."""
DEFAULT_RATIO = 0.01
"""Without OTEL_TRACES_SAMPLER_ARG: nobody asked for these traces, they are there to show what the service does."""


def is_wanted(url: str | None) -> bool:
    """Whether traces are to be sent: there is a collector, and OpenTelemetry is not switched off in this environment."""
    return url is not None and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


def check(url: str | None) -> None:
    """Raise SettingsError where traces are wanted and cannot be: the packages, or what OTEL_* variables say."""
    if not is_wanted(url):
        return
    own_ratio(os.environ)
    for package in PACKAGES:
        try:
            found = find_spec(package)
        except ModuleNotFoundError:  # of the package that it is in
            found = None
        if found is None:
            raise SettingsError(f"--otlp needs {package}, which is not installed; run: {install('otel')}")


def own_ratio(environment: Mapping[str, str]) -> float:
    """The share of the jobs without a trace that get one of their own, 0 to 1. Raises SettingsError.

    Jobs with a trace are recorded where whoever submitted them says so, whatever stands here.
    """
    sampler = environment.get("OTEL_TRACES_SAMPLER") or "parentbased_traceidratio"
    if sampler not in SAMPLERS:
        raise SettingsError(f"OTEL_TRACES_SAMPLER is {excerpt(sampler, 40)!r}: convq knows {', '.join(SAMPLERS)}")
    fixed = SAMPLERS[sampler]
    if fixed is not None:
        return fixed
    given = environment.get("OTEL_TRACES_SAMPLER_ARG") or str(DEFAULT_RATIO)
    try:
        ratio = float(given)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG is {echoed(given)}: expected a number from 0 to 1")
    return ratio
