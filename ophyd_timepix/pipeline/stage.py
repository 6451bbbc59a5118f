"""What every stage process does the same way: how it starts, obeys, answers, and dies.

A stage is forked by the supervisor, which is single-threaded and has compiled the kernels: a fork costs milliseconds
and shares the code. It talks to the supervisor over one connection: requests `(kind, argument)`, answers
`(kind, "ok", result)`, refusals `(kind, "refused", (type, message))`. The end of that connection ends the stage.
"""

import contextlib
import logging
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Protocol

log = logging.getLogger(__name__)

PROCESSING_NICENESS: Final = 5
"""Processing may fall behind, receiving may not: when cores are short, the scheduler shall know."""
REFUSALS: Final = (OSError, ValueError, RuntimeError)
"""What a request may raise without being the death of the stage."""


class Handler(Protocol):
    """One kind of request of a stage."""

    def __call__(self, argument: Any, /) -> Any: ...


class Stage:
    """Base of the stages: a loop over requests, work and hand-over connections."""

    name: str
    requests: dict[str, Handler]
    niceness = PROCESSING_NICENESS

    def __init__(self, control: Connection) -> None:
        self.control = control

    def inputs(self) -> Sequence[Connection]:
        """Connections besides the supervisor's that bring work."""
        return ()

    def receive(self, connection: Connection) -> None:
        """Take one message from one of the inputs."""
        raise NotImplementedError

    def step(self) -> bool:
        """Do a piece of work that no connection announces. True: more is waiting."""
        return False

    def idle_s(self) -> float | None:
        """How long to wait for a message when `step` had nothing to do; None: until one comes."""
        return None

    def close(self) -> None:
        """Release what the stage holds: the supervisor is gone or asks for the end."""

    def run(self) -> None:
        """Serve until the supervisor closes the connection."""
        busy = False
        while True:
            for connection in wait([self.control, *self.inputs()], 0 if busy else self.idle_s()):
                if connection is self.control:
                    self.obey()
                else:
                    self.receive(connection)  # type: ignore[arg-type]
            busy = self.step()

    def obey(self) -> None:
        """Take one request of the supervisor and answer it."""
        kind, argument = self.control.recv()
        try:
            result = self.requests[kind](argument)
        except REFUSALS as error:
            log.warning("%s refused %s: %s", self.name, kind, error)
            self.control.send((kind, "refused", (type(error).__name__, str(error))))
        else:
            self.control.send((kind, "ok", result))

    def report(self, kind: str, result: Any) -> None:
        """Tell the supervisor something that it waits for."""
        self.control.send((kind, "ok", result))


def run_forked(name: str, control: Connection, make: Callable[[], Stage]) -> None:
    """The life of a forked stage. Never returns: the process ends here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is Bluesky's pause key
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 1
    try:
        stage = make()
        os.nice(stage.niceness)
        try:
            stage.run()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            log.debug("%s: the supervisor or a neighbour is gone", name)
        finally:
            stage.close()
        code = 0
    except BaseException as error:
        log.exception("stage %s failed", name)
        with contextlib.suppress(OSError):
            control.send(("died", "ok", (f"failed: {type(error).__name__}: {error}", traceback.format_exc())))
    finally:
        logging.shutdown()
        os._exit(code)
