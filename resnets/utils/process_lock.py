"""A lock for what a process has only once, held by the runs that train in its threads."""

import threading

# Held by a run while it draws from torch's global random numbers (initial weights, dropout),
# captures a CUDA graph, evaluates or draws figures: everything but its loop, and there each step
# that is not a graph. Runs in threads of one process (`study.grid.shared_process`) then equal runs
# alone.
process_lock = threading.RLock()
