"""`convq models`: look into the model repository, bring models into it, prove that they work."""

from __future__ import annotations

import click

from convq.cli.models.add import add
from convq.cli.models.check import check
from convq.cli.models.evaluate import evaluate
from convq.cli.models.listing import list_models
from convq.cli.models.show import show


@click.group()
def models() -> None:
    """Look into the model repository, bring your own model, prove that one works.

    \b
    convq models list
    convq models show lenet
    convq models add resnet.onnx --name resnet --labels classes.txt
    convq models check resnet --image cat.jpg
    convq models eval resnet pictures/ --against 1
    """


for _command in (list_models, show, add, check, evaluate):
    models.add_command(_command)
