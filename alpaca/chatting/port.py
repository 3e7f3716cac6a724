"""What a server needs before any weight is loaded: its packages and its port."""

import socket
from importlib.util import find_spec

from alpaca.errors import UserError

HOST = "127.0.0.1"
PACKAGES = ("fastapi", "uvicorn")


def require_extra() -> None:
    """Raise `UserError` where a package of the extra `serve` is not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"--serve: needs {' and '.join(missing)}; install with: pip install {' '.join(PACKAGES)}")


def taken(port: int) -> socket.socket:
    """A socket bound to `port` of this machine, 0 for any free one; no other machine can reach it.

    Raises:
        UserError: another program has it, or it is not for ordinary users.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(f"--port {port}: {error.strerror}; choose another one, or 0 for any that is free") from None
    return listening
