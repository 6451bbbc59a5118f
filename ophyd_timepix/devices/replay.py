"""What bluesky takes again when a paused plan resumes: everything since the last checkpoint.

Acquisitions that were finished and are taken again are superseded: their rows stay in the file, counted as cancelled.
Knows no exposure; its owner holds a lock around each call.
"""


class Replay:
    """Remembers which acquisitions a replay would take again."""

    def __init__(self) -> None:
        self.superseded: list[int] = []
        """Acquisitions of the run that were taken again."""
        self._since_checkpoint: list[int] = []
        self._checkpoints = False
        self._resumed = False

    def note_checkpoint(self) -> None:
        """What was acquired until now will not be taken again."""
        self._checkpoints = True
        self._resumed = False
        self._since_checkpoint.clear()

    def note_resumed(self) -> None:
        """What begins next may be taken again."""
        self._resumed = True

    def note_acquired(self, acquisition: int) -> None:
        """An acquisition was finished. Without checkpoints nothing is ever taken again."""
        if self._checkpoints:
            self._since_checkpoint.append(acquisition)

    def begins(self) -> tuple[bool, tuple[int, ...]]:
        """Something begins: whether it is taken again, and the acquisitions that are superseded by that."""
        replayed, self._resumed = self._resumed, False
        if not replayed:
            return False, ()
        superseded = tuple(self._since_checkpoint)
        self.superseded += superseded
        self._since_checkpoint.clear()
        return True, superseded

    def begin_run(self) -> None:
        """Acquisitions are numbered anew."""
        self._since_checkpoint.clear()
        self.superseded.clear()
