"""The two ways a command ends badly, and their exit statuses.

`UserError` is for what the user can fix (exit 2): its text is one line that names the key, file or
line, the value, the rule and the way out. `RunFailed` is for a run that could not finish (exit 1).
No traceback is printed for either.
"""


class UserError(Exception):
    """Bad input: a setting, a file, a missing device. Ends the command with status 2."""

    exit_status = 2


class RunFailed(Exception):
    """The run started and could not finish. Ends the command with status 1."""

    exit_status = 1
