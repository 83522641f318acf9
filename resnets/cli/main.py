"""The `resnets` command: picks the subcommand, prints errors as one line, returns the exit code.

0 done, 1 failed, 2 bad usage, 3 an artifact or data set that failed verification, 75 a distributed
step that hung. Stopped by a signal: 130 Ctrl-C, 129 SIGHUP, 143 SIGTERM; but 0 for SIGTERM where
that is a planned stop: during the steps of a training run (also of those in a study or in folds),
which saves a checkpoint, and in `serve`, which ends in order (with 0 on Ctrl-C, too).
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from resnets.cli.process import (
    Terminated,
    open_standard_streams,
    terminate_on_signals,
)

NO_HOME = "Could not determine home directory."  # message of pathlib
COMMANDS = {
    "train": "train a model from a recipe, or resume a run",
    "evaluate": "evaluate a run or checkpoint on a data set",
    "predict": "classify images, or detect objects in them",
    "features": "compute embeddings of images, and find nearest images",
    "serve": "serve models over HTTP, with a page to try them",
    "recompute-norm": "average batch norm statistics over a training set",
    "push": "publish a model to a folder or the Hugging Face Hub",
    "export": "export a model to ONNX, OpenVINO or torch.export, verified",
    "study": "run a study: depth, shortcuts, responses, gradients, ...",
    "tune": "search learning rate, weight decay and augmentation of a recipe",
    "replay": "repeat the step at which a run's loss became NaN or infinite",
    "folds": "cross-validate, and find labels that are likely wrong",
    "data": "check a data set, or pack it into one file that trains faster",
    "info": "layers, parameters, multiply-adds and diagrams of models",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):  # no failure over characters a terminal lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            arguments = list(sys.argv[1:] if argv is None else argv)
            if (code := _handle_no_command(arguments)) is not None:
                return code
            return _run_until_signal(arguments[0], arguments[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _handle_no_command(arguments: list[str]) -> int | None:
    """Print help, version or an error and return the exit code; None if a command is named."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_format_overview())  # noqa: T201
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"resnets {version('resnets')}")  # noqa: T201
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        from resnets.utils.suggest import suggest

        return _fail(f"resnets: unknown command {name!r}; {suggest(name, COMMANDS)}", 2)
    return None


def _run(name: str, arguments: list[str]) -> int:
    """Run a command; returns the exit code, after printing the error if there is one."""
    import tyro

    from resnets.cli.usage.arguments import module_name, read_command
    from resnets.cli.usage.check import check_arguments
    from resnets.cli.usage.help import format_help
    from resnets.config import ConfigError
    from resnets.config.aliases import current_words
    from resnets.utils.argument_names import options_in_messages
    from resnets.utils.errors import RemoteError
    from resnets.utils.printable import echo

    module = importlib.import_module(module_name(name))
    described, program = read_command(name), f"resnets {name}"
    if arguments and arguments[0] in described.subcommands:
        name = f"{name} {arguments[0]}"  # for error messages
    if os.environ.get("WORLD_SIZE", "1") != "1":  # a message names its process
        name = f"{name}: rank {os.environ.get('RANK', '?')}"
    try:
        arguments = current_words(arguments)
        if "--help" in arguments or "-h" in arguments:
            echo(format_help(described.subcommands.get(arguments[0], described)))
            return 0
        check_arguments(described, arguments)
        with options_in_messages():
            return tyro.cli(module.command, prog=program, args=arguments)
    except BrokenPipeError:
        raise
    except RemoteError:
        return 0  # another process reports the error and its exit code
    except ConfigError as error:
        return _fail(f"resnets {name}: {error}", 2)
    except (ValueError, OSError) as error:
        return _fail(f"resnets {name}: {_format_error(error)}", 1)
    except KeyboardInterrupt as stop:
        from resnets.train.guards.interrupt import Interrupted

        if not isinstance(stop, Interrupted):
            return _fail(f"resnets {name}: stopped", 130)
        if os.environ.get("RANK", "0") == "0":
            echo(stop)
        return stop.code
    except Terminated as signal:
        return _fail(f"resnets {name}: {signal}", signal.code)
    except (RuntimeError, MemoryError) as error:
        if str(error) == NO_HOME:
            why = "a path begins with ~, but that user has no home folder"
            return _fail(f"resnets {name}: {why}", 2)
        from resnets.utils.errors import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        why = next(iter(str(error).splitlines()), type(error).__name__)
        return _fail(f"resnets {name}: out of memory ({why[:200]})", 1)


def _format_error(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())


def _run_until_signal(name: str, arguments: list[str]) -> int:
    """Run a command; signals while it reports an error or ends cause no traceback."""
    try:
        with terminate_on_signals():
            return _run(name, arguments)
    except Terminated as signal:
        return signal.code
    except KeyboardInterrupt:
        return 130


def _fail(message: str, code: int) -> int:
    from resnets.utils.printable import echo

    echo(message, error=True)
    return code


def _format_overview() -> str:
    rows = "\n".join(f"  {name:<16}{text}" for name, text in COMMANDS.items())
    return (
        "usage: resnets COMMAND ...\n\n"
        "Train, study and deploy deep residual networks (He et al., CVPR 2016).\n\n"
        f"{rows}\n\n`resnets COMMAND --help` explains each; start with `resnets train digits`."
    )


if __name__ == "__main__":
    sys.exit(main())
