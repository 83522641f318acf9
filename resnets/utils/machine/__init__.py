"""The machine: devices, CPU cores, precision of arithmetic, processes and signals."""
