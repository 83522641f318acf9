"""`resnets` whose training stands still at a step until it is asked to stop, or killed.

For tests that stop it on its way: however slow the machine, they come before the run's end.
`python held.py PROCESS STEP words ...`; PROCESS is "MainProcess", or a study's worker by its cell.
"""

import multiprocessing
import signal
import sys
import time

from resnets.cli.main import main
from resnets.train import loop

NAME, STEP = sys.argv[1], int(sys.argv[2])
step_on = loop.train_step


def step_and_stand_still(state, *rest):
    step_on(state, *rest)
    if state.step == STEP and multiprocessing.current_process().name == NAME:
        signals = signal.getsignal(signal.SIGTERM).__self__  # StopSignals of the loop
        while signals.received is None:
            time.sleep(0.01)


loop.train_step = step_and_stand_still
if __name__ == "__main__":
    sys.exit(main(sys.argv[3:]))
