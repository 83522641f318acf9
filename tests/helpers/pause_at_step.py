"""Run `resnets`, and pause training at a step until the process gets a signal.

Tests that stop a run do not depend on the speed of the machine.
`python pause_at_step.py PROCESS STEP argument ...`; PROCESS is "MainProcess", or the cell of a
worker of a study.
"""

import multiprocessing
import signal
import sys
import time

from resnets.cli.main import main
from resnets.train.step import TrainStep

NAME, STEP = sys.argv[1], int(sys.argv[2])
take_step = TrainStep.__call__


def step_and_wait(self, batch):
    take_step(self, batch)
    if self.state.step == STEP and multiprocessing.current_process().name == NAME:
        signals = signal.getsignal(signal.SIGTERM).__self__  # StopSignals of the loop
        while signals.received is None:
            time.sleep(0.01)


TrainStep.__call__ = step_and_wait
if __name__ == "__main__":
    sys.exit(main(sys.argv[3:]))
