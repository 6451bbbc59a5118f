"""Errors of the pipeline. Each says which stage, why, and where the log is."""

from .messages import StageDeath


class PipelineError(RuntimeError):
    """The pipeline refused a request or a stage of it failed."""


class StageDied(PipelineError):
    """A stage ended unasked: the run it belonged to has failed."""

    def __init__(self, death: StageDeath) -> None:
        self.death = death
        kept = ""
        if death.salvaged:
            kept = (
                f"; the recording up to then is complete in {death.salvaged}, `ophyd-timepix recover {death.salvaged}` "
                "makes its event file"
            )
        if death.saving:
            kept = (
                f"; {death.saving} is still being completed from memory (the log says when it is), then `ophyd-timepix "
                f"recover {death.saving}` makes its event file"
            )
        trace = f"\n{death.traceback}" if death.traceback else ""
        super().__init__(f"stage {death.stage!r} of the pipeline {death.reason}{kept}; log: {death.log}{trace}")


class PipelineTimeout(PipelineError):
    """The supervisor did not answer in time."""
