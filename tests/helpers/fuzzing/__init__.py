"""A fuzzer of every file format that the package reads.

`mutate` damages files, `readers` lists the functions that read them with valid files of each kind,
`attempts` runs one reader on one damaged file in a monitored process, `__main__` is the command:

    python -m fuzzing --count 10000 --seed 0 [--reader NAME] [--processes 2] [--out FOLDER]
"""
