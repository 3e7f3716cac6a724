"""What all commands do alike: read their options, and turn every way to end into one line and an exit status.

`Parser` reads the options, `run` does what they ask for. Nothing heavy is imported, so that `--help` is instant.
"""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from alpaca import __version__, startup
from alpaca.errors import RunFailed, UserError

INTERRUPTED = 130  # the shell's status for Ctrl-C
UNWRITABLE = (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT)  # of standard output: nobody reads it, or it is full
_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")  # a negative one is a value, as argparse has it


class Parser(argparse.ArgumentParser):
    """Options of `python -m alpaca.NAME`; what is wrong with them is a `UserError` of one line.

    Args:
        name: of the command.
        description: what it does, for `--help`.
        passed_on: options that another parser reads. Where there are some, everything that is not an option of
            this command goes into `overrides` of the result.
    """

    def __init__(self, name: str, description: str, *, passed_on: Collection[str] = (), **more: Any) -> None:
        super().__init__(prog=f"python -m alpaca.{name}", description=description, allow_abbrev=False, **more)
        self._passed_on = passed_on
        self.add_argument("--version", action="version", version=f"alpaca {__version__}", help="print the version")

    def read(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The options of `argv`, by default of the command line.

        Raises:
            UserError: an option that there is not, a bad value, something missing or too much.
        """
        given = list(sys.argv[1:] if argv is None else argv)
        known = {*self._option_string_actions, *self._passed_on}
        if (wrong := unknown_option(given, known, settings=bool(self._passed_on))) is not None:
            self.error(wrong)
        options, rest = self.parse_known_args(given)
        if rest and not self._passed_on:
            self.error(f"{rest[0]}: one argument too many")
        options.overrides = rest
        return options

    def error(self, message: str) -> NoReturn:
        """End with one line in place of argparse's usage and error."""
        raise UserError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def unknown_option(given: Iterable[str], known: Collection[str], *, settings: bool = False) -> str | None:
    """A sentence about the first option in `given` that is not `known`, with the nearest; None where all are.

    Args:
        settings: the command reads overrides too, so that an option may be a setting that was written with dashes.
    """
    short = tuple(name for name in known if not name.startswith("--"))
    given = list(given)
    for index, argument in enumerate(given):
        name = argument.partition("=")[0]
        if name == "--":
            return None
        if not name.startswith("-") or name == "-" or " " in argument or _NUMBER.match(argument) or name in known:
            continue
        if not name.startswith("--") and name.startswith(short):
            continue  # -pVALUE
        if settings and (hint := _as_setting(argument, given[index + 1 : index + 2])) is not None:
            return f"{name}: no such option; settings are written KEY=VALUE, without dashes: {hint}"
        near = get_close_matches(name, known, n=1)
        return f"{name}: no such option{f'; did you mean {near[0]}?' if near else ''}"
    return None


def _as_setting(argument: str, following: list[str]) -> str | None:
    from alpaca.explaining import option_hint

    return option_hint(argument, following[0] if following else None)


def run(
    parser: Parser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    *,
    interrupted: str = "interrupted",
    keeps_going: bool = False,
) -> int:
    """Do `work` with the options of `argv`; returns the exit status.

    0 done (or what `work` returns), 1 failed, 2 bad input, 130 interrupted, with `interrupted` as the line.
    When its output cannot be written it goes on with `keeps_going`, else it ends with 1, quietly if nobody reads it.
    """
    startup.start(keeps_going=keeps_going)
    try:
        status = work(parser.read(argv)) or 0
        sys.stdout.flush()
        return status
    except (UserError, RunFailed) as error:
        return fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return fail(interrupted, INTERRUPTED)
    except OSError as error:
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has seen enough (`| head`)
            return RunFailed.exit_status
        return fail(f"the output cannot be written: {error.strerror}", RunFailed.exit_status)


def fail(message: str, status: int) -> int:
    """Print one line on standard error and return the exit status."""
    print(f"alpaca: {' '.join(message.split())}", file=sys.stderr)
    return status
