"""`launch/train.py` whose rank 1 is killed at its eighth step, at the first start only; started by torchrun."""

import os
import signal

from disturbing import Disturb, send

from launch import run as launch_run
from launch import train
from launch.config import command
from launch.schema import TrainConfig

make = launch_run.make_trainer


def deadly(zero, hardware, folder, logger, callbacks, **options):  # noqa: ANN001, ANN003, ANN201
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    return make(
        zero, hardware, folder, logger, [*callbacks, *([Disturb(7, (1,), send(signal.SIGKILL))] * first)], **options
    )


launch_run.make_trainer = deadly
command(train.main, TrainConfig, train.__doc__)
