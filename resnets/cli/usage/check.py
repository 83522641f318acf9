"""Usage errors, found before tyro parses the arguments: one line each, as with other errors."""

from __future__ import annotations

from collections.abc import Sequence

from resnets.cli.usage.arguments import Argument, Command
from resnets.utils.errors import ConfigError
from resnets.utils.suggest import suggest

EMPTY = "is empty; is a shell variable unset?"
NUMBERS = {"INT": (int, "a whole number"), "FLOAT": (float, "a number")}


def check_arguments(command: Command, arguments: Sequence[str]) -> None:
    """Raise ConfigError for arguments that the command cannot take.

    Unknown options and subcommands, missing arguments and required options, missing or superfluous
    values, values that are no number or no choice, and empty values, which as a path would be the
    current folder.
    """
    _check_not_empty(arguments)
    if command.subcommands:
        command, arguments = _subcommand(command, arguments)
    options = {name: each for each in command.arguments for name in each.names if each.is_option}
    words, positional, given = list(arguments), list[str](), set[Argument]()
    while words:
        word = words.pop(0)
        if not _is_option(word):
            positional.append(word)
            continue
        name, equals, value = word.partition("=")
        option = options.get(_with_hyphens(name))
        if option is None:
            hint = suggest(name, options, f"see {command.name} --help")
            raise ConfigError(f"{name}: unknown option; {hint}")
        given.add(option)
        values = [value] if equals else _take_values(option, words)
        _check_values(name, option, values)
    _check_positional(command, positional)
    for option in options.values():
        if option.is_required and option not in given:
            raise _missing(option)


def _missing(argument: Argument) -> ConfigError:
    return ConfigError(f"{argument.names[-1]} is missing: {argument.meaning.rstrip('.')}")


def _check_not_empty(arguments: Sequence[str]) -> None:
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("--") and equals and not value.strip():
            raise ConfigError(f"{name}: {EMPTY}")
        if not argument.strip():
            before = arguments[index - 1] if index else ""
            option = before if before.startswith("-") else f"argument {index + 1}"
            raise ConfigError(f"{option}: {EMPTY}")


def _subcommand(command: Command, arguments: Sequence[str]) -> tuple[Command, Sequence[str]]:
    """Return the subcommand that the first argument names, and the others."""
    known = command.subcommands
    name = arguments[0] if arguments else ""
    if name in known:
        return known[name], arguments[1:]
    problem = f"unknown subcommand {name!r}" if name else "a subcommand is missing"
    raise ConfigError(f"{problem}; {suggest(name, known)}")


def _is_option(word: str) -> bool:
    """Whether a word is an option, not "-" (standard input) or a negative number."""
    return word.startswith("-") and word[1:2] not in ("", *"0123456789.")


def _with_hyphens(name: str) -> str:
    """Return an option as it is listed; --batch_size is accepted as well."""
    return "--" + name.removeprefix("--").replace("_", "-") if name.startswith("--") else name


def _take_values(option: Argument, words: list[str]) -> list[str]:
    """Remove the values of an option from `words` and return them."""
    count = 0
    if option.is_list:
        while count < len(words) and not _is_option(words[count]):
            count += 1
    elif option.takes_value:
        count = 1 if words and not _is_option(words[0]) else 0
    values = words[:count]
    del words[:count]
    return values


def _check_values(name: str, option: Argument, values: Sequence[str]) -> None:
    if not option.takes_value and values:
        raise ConfigError(f"{name}: takes no value")
    if option.takes_value and not values and not option.is_list:
        raise ConfigError(f"{name}: a value is missing")
    for value in values:
        _check_value(name, option, value)


def _check_value(name: str, argument: Argument, value: str) -> None:
    if argument.choices and value not in argument.choices:
        named = [choice for choice in argument.choices if choice]
        known = ", ".join(named[:-1]) + f" or {named[-1]}"
        raise ConfigError(f"{name} {value}: must be {known}")
    kind, described = NUMBERS.get(argument.value, (None, ""))
    if kind is None or value == "None":
        return
    try:
        kind(value)
    except ValueError:
        raise ConfigError(f"{name} {value}: must be {described}") from None


def _check_positional(command: Command, values: Sequence[str]) -> None:
    """Raise ConfigError if an argument is missing, or if there are more than the command takes."""
    arguments = [each for each in command.arguments if not each.is_option]
    for argument in arguments[len(values) :]:
        if argument.is_required:
            raise _missing(argument)
    if len(values) > len(arguments) and not any(each.is_list for each in arguments):
        raise ConfigError(f"{values[len(arguments)]}: unexpected; see {command.name} --help")
    for argument, value in zip(arguments, values, strict=False):
        _check_value(argument.names[0], argument, value)
