"""The shutter of a board, and how it opens."""

from dataclasses import replace
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Kind
from ophyd.status import Status

from ..control import TriggerConfig
from ..protocol import TriggerMode
from ..protocol.quantities import Setting
from .signals import Hardware, Scalar
from .text import Text, table

OPEN, CLOSED = "open", "closed"


class ShutterState(Hardware):
    """`open` or `closed`. The board has no read-back of a shutter: the value is the last command."""

    def __init__(self, **kwargs: Any) -> None:
        self._settings: TriggerConfig | None = None
        super().__init__(value=CLOSED, choices=(OPEN, CLOSED), **kwargs)

    def ask(self) -> str:
        return str(self.last)

    def put(self, value: Any, **kwargs: Any) -> None:
        wanted = self.normal(value)
        if wanted == OPEN:
            self._open()
        else:
            self._close()
        self.note(wanted, always=True)

    def _open(self) -> None:
        """Opening by hand uses the board's own trigger settings, so they are kept and put back."""
        self._settings = self.control.trigger()
        self.control.open_shutter()

    def _close(self) -> None:
        self.control.close_shutter()
        settings, self._settings = self._settings, None
        if settings is not None:
            self.control.set_trigger(settings)


class TriggerField(Hardware):
    """One of the board's shutter settings. Setting it leaves the others as they are."""

    recorded = True

    def __init__(self, *, attr_name: str, **kwargs: Any) -> None:
        default = _plain(getattr(TriggerConfig(), attr_name))
        super().__init__(attr_name=attr_name, value=default, **kwargs)

    def ask(self) -> Scalar:
        return self.of(self.control.trigger())

    def tell(self, value: Any) -> None:
        wanted = TriggerMode[value.upper()] if self.attr_name == "mode" else value
        with self.root.exclusive():
            self.control.set_trigger(replace(self.control.trigger(), **{self.attr_name: wanted}))

    def of(self, config: TriggerConfig) -> Scalar:
        """The setting's value in the board's configuration."""
        return _plain(getattr(config, self.attr_name))

    @property
    def source(self) -> str:
        return "SPIDR:SET_TRIGCONFIG"


def _plain(value: Any) -> Scalar:
    return value.name.lower() if isinstance(value, TriggerMode) else int(value)


def _field(entry: Setting) -> Any:
    """Declare a setting of the protocol's table."""
    return Cpt(TriggerField, units=entry.unit, limits=entry.limits, meaning=entry.meaning, kind=Kind.config)


class Shutter(Device):
    """`set("open")` opens until `set("closed")`; `start()` opens it as `mode`, `length_us` and the others say."""

    state = Cpt(ShutterState, kind=Kind.hinted, meaning="the last command")
    mode = Cpt(
        TriggerField, choices=tuple(mode.name.lower() for mode in TriggerMode), kind=Kind.config,
        meaning="what opens and closes it at `start`",
    )  # fmt: skip
    length_us = _field(Setting.SHUTTER_LENGTH)
    frequency_hz = _field(Setting.SHUTTER_FREQUENCY)
    count = _field(Setting.SHUTTER_COUNT)
    delay_ns = _field(Setting.SHUTTER_DELAY)

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(prefix, **kwargs)
        self.state.name = self.name

    def set(self, value: str, **kwargs: Any) -> Status:
        """`open` or `closed`."""
        return self.state.set(value)

    def start(self) -> None:
        """Let it open as its settings say."""
        self.parent.control.start_trigger()

    def refresh(self) -> None:
        """Ask the board for the settings."""
        config = self.parent.control.trigger()
        for name in ("mode", "length_us", "frequency_hz", "count", "delay_ns"):
            signal = getattr(self, name)
            signal.note(signal.of(config))

    def summary(self) -> Text:
        """State and settings. Asks the board."""
        self.refresh()
        return Text(repr(self))

    def __repr__(self) -> str:
        rows = [("shutter", "value", "unit", "meaning")]
        for name in ("state", "mode", "length_us", "frequency_hz", "count", "delay_ns"):
            signal = getattr(self, name)
            rows.append((name, str(signal.last) if name == "state" else signal.shown, signal.units, signal.meaning))
        return table(rows)
