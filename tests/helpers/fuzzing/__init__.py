"""A fuzzer of every file format that the package reads.

`mutate` damages files, `readers` lists what reads them with a few valid files each, `attempts` runs
one reader on one damaged file in a bounded process, `__main__` is the command:

    python -m fuzzing --count 10000 --seed 0 [--reader NAME] [--processes 2] [--out FOLDER]
"""
