"""`convq models`: look into the model repository, bring models into it, prove that they work."""

from __future__ import annotations

import click

from convq.cli.models.listing import list_models
from convq.cli.models.show import show


@click.group()
def models() -> None:
    """Look into the model repository.

    \b
    convq models list
    convq models show lenet
    """


for _command in (list_models, show):
    models.add_command(_command)
