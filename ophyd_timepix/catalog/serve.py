"""The embedded catalog as a server: the same runs over HTTP, with Tiled's web interface, for several users or machines.

One process, which ends on SIGINT and SIGTERM. The catalog's own sessions may go on using it without the server.
"""

import contextlib
import copy
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from .errors import CatalogError, require
from .profile import DEFAULT_NAME, find_profile, profile_content

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000
KEY_FILE: Final = "api_key"
SHUTDOWN_S: Final = 5
"""How long answers that are under way may take when the server is told to end."""


def serve_catalog(
    name: str = DEFAULT_NAME,
    *,
    host: str = LOOPBACK,
    port: int = DEFAULT_PORT,
    public: bool = False,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the embedded catalog `name` until SIGINT or SIGTERM. To be called in the main thread.

    port: 0 takes a free one. public: reading needs no key. ready: is given the address, with the key that lets its
    bearer read and write, once the server answers. The key is in the file `api_key` beside the catalog, made at the
    first call and readable for its owner alone: the address stays the same.
    """
    profile = find_profile(name)
    if profile.directory is None:
        raise CatalogError(
            f"The profile {name!r} in {profile.path} is not an embedded catalog; a server serves it already"
        )
    if profile.database is None or not profile.database.exists():
        raise CatalogError(f"The catalog {name!r} has lost its database {profile.database}; bring it back")
    uvicorn = require("uvicorn")
    key = api_key(profile.directory)
    listener = _listen(host, port)
    address = f"http://{_bracketed(host)}:{listener.getsockname()[1]}"
    with contextlib.closing(listener), _ending_quietly():
        application = _application(name, key, public)
        config = uvicorn.Config(
            application, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_S, lifespan="on"
        )
        _server(uvicorn, config, lambda: ready(f"{address}/?api_key={key}")).run(sockets=[listener])


def api_key(directory: Path) -> str:
    """The key of the catalog in `directory`, from its file; made when there is none."""
    path = directory / KEY_FILE
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(16) + "\n")
    except FileExistsError:
        pass
    except OSError as refused:
        raise CatalogError(f"The key {path} of the catalog cannot be written: {refused.strerror}") from refused
    key = path.read_text(encoding="ascii").strip()
    if not key.isalnum():
        raise CatalogError(f"{path} holds no key (letters and digits); delete it, and a new one is made")
    return key


def _application(name: str, key: str, public: bool) -> Any:
    config: dict[str, Any] = copy.deepcopy(profile_content(name)["direct"])
    config["authentication"] = {
        **config.get("authentication", {}), "single_user_api_key": key, "allow_anonymous_access": public,
    }  # fmt: skip
    app = require("tiled.server.app")
    logging.getLogger("tiled.server.app").setLevel(logging.WARNING)
    return app.build_app_from_config(config)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as refused:
        raise CatalogError(
            f"The catalog cannot be served at {host}:{port}: {refused.strerror}; "
            "choose another with --port (0 takes a free one), or another --host"
        ) from refused


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _server(uvicorn: Any, config: Any, started: Callable[[], None]) -> Any:
    """uvicorn's server, which tells when it answers."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                started()

    return Server(config)


@contextlib.contextmanager
def _ending_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more, for whoever was there before: that it ended is all."""

    def ignore(_number: int, _frame: FrameType | None) -> None:
        pass

    before = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
