"""The kinds of signal that the devices are declared with.

A signal carries its unit, limits, choices, meaning and source into `describe()`, so that a catalog, a plot or a person
can read what a number is. Hardware signals reach their board through the devices above them and only when they are
used: making one never touches the network.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from ophyd import Component as Cpt
from ophyd import Kind, Signal, SignalRO
from ophyd.status import Status

from ..protocol.quantities import Quantity as Entry
from .status import PlainStatus, settled

DataKey = dict[str, Any]
Scalar = float | int | str | bool
Limits = tuple[float, float]

OFF, ON = "off", "on"
ROUNDING: Final = 1e-9
"""How far beyond a limit a float may lie for having been computed."""


def scalar_key(source: str, value: Scalar, units: str = "") -> DataKey:
    """A scalar's entry in `describe()`, its type taken from a value."""
    if isinstance(value, bool):
        key: DataKey = {"dtype": "boolean", "dtype_numpy": "|b1"}
    elif isinstance(value, int):
        key = {"dtype": "integer", "dtype_numpy": "<i8"}
    elif isinstance(value, float):
        key = {"dtype": "number", "dtype_numpy": "<f8"}
    else:
        key = {"dtype": "string"}
    key |= {"source": source, "shape": []}
    if units:
        key["units"] = units
    return key


class Quantity(SignalRO):
    """A result that the device publishes and others read. The type of its first value is its type for good."""

    def __init__(self, *, value: Scalar, units: str = "", meaning: str = "", **kwargs: Any) -> None:
        super().__init__(value=value, **kwargs)
        self.meaning = meaning
        """What the quantity is, in a few words."""
        self._type = type(value)
        self._units = units

    @property
    def units(self) -> str:
        return self._units

    def publish(self, value: Scalar) -> None:
        """Set the value; subscribers are told."""
        Signal.put(self, self._type(value), force=True)

    def describe(self) -> dict[str, DataKey]:
        return {self.name: scalar_key(f"TPX3:{self.attr_name}", self._readback, self._units)}


class ArrayQuantity(SignalRO):
    """An array that the device publishes. In events only where somebody makes its kind normal: they are large.

    Its shape is that of its last value.
    """

    def __init__(self, *, shape: tuple[int, ...], units: str = "", meaning: str = "", **kwargs: Any) -> None:
        super().__init__(value=np.zeros(shape, np.uint32), **kwargs)
        self.meaning = meaning
        """What it is, in a few words."""
        self._units = units

    @property
    def units(self) -> str:
        return self._units

    @property
    def range(self) -> str:
        """Its shape, for a table."""
        return "array"

    @property
    def watched(self) -> bool:
        """Whether somebody subscribes to it."""
        return bool(self._callbacks[self.SUB_VALUE])

    def publish(self, values: Any) -> None:
        """Set the value, a copy; subscribers are told."""
        Signal.put(self, np.array(values), force=True)

    def reshape(self, shape: tuple[int, ...]) -> None:
        """Zeros of another shape, where it has another."""
        if self._readback.shape != shape:
            self.publish(np.zeros(shape, self._readback.dtype))

    def describe(self) -> dict[str, DataKey]:
        key = {
            "source": f"TPX3:{self.attr_name}",
            "dtype": "array",
            "dtype_numpy": self._readback.dtype.str,
            "shape": list(self._readback.shape),
            "units": self._units,
        }
        return {self.name: key}


def array(units: str, meaning: str, *, shape: tuple[int, ...]) -> Any:
    """Declare an ArrayQuantity that is in no document until its kind is set."""
    return Cpt(ArrayQuantity, shape=shape, units=units, meaning=meaning, kind=Kind.omitted)


class _Bounded(Signal):
    """A signal with a type, a unit, limits or choices, set at once: its Status is done when `set` returns."""

    def __init__(
        self,
        *,
        value: Scalar,
        units: str = "",
        limits: Limits | None = None,
        choices: tuple[str, ...] | None = None,
        precision: int | None = None,
        meaning: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(value=value, **kwargs)
        self.meaning = meaning
        """What the quantity is, in a few words."""
        self._type = type(value)
        self._units = units
        self._limits = limits
        self._choices = choices
        self._precision = precision

    @property
    def limits(self) -> Limits:
        """Lowest and highest value; (0, 0): none."""
        return self._limits or (0, 0)

    @property
    def units(self) -> str:
        return self._units

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it can be set to; empty: it is a number or free text."""
        return self._choices or ()

    @property
    def precision(self) -> int | None:
        """Decimals that mean something."""
        return self._precision

    @property
    def range(self) -> str:
        """Limits or choices, for a table."""
        if self._choices is not None:
            return " | ".join(self._choices)
        return " to ".join(map(_plain_number, self._limits)) if self._limits is not None else ""

    def normal(self, value: Any) -> Scalar:
        """`value` (Python's or numpy's) as this signal holds it. Raises ValueError unless it may be set."""
        if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
            value = value.item()
        if self._choices is not None:
            return self._choice(value)
        if self._type is str:
            return str(value)
        return self._number(value)

    def check_value(self, value: Any, **kwargs: Any) -> None:
        """Raise ValueError unless `value` may be set."""
        self.normal(value)

    def _choice(self, value: Any) -> Scalar:
        if value not in self.choices:
            raise ValueError(f"{self.name} is one of {', '.join(self.choices)}, not {value!r}")
        return str(value)

    def _number(self, value: Any) -> Scalar:
        unit = f" {self._units}" if self._units else ""
        if not isinstance(value, int | float) or (isinstance(value, bool) and not self._may_be_bool):
            raise ValueError(f"{self.name} is a number{f' ({self._units})' if unit else ''}, not {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"{self.name} is a finite number{f' ({self.range}{unit})' if unit else ''}, not {value!r}")
        if self._limits is not None and not self._limits[0] - ROUNDING <= value <= self._limits[1] + ROUNDING:
            low, high = map(_plain_number, self._limits)
            raise ValueError(f"{self.name} goes from {low} to {high}{unit}, not {value!r}")
        if self._type is float:
            return float(value)
        return self._type(self._whole(value))

    @property
    def _may_be_bool(self) -> bool:
        """True is no 1 V and no DAC code, but a bit may be True."""
        return self._type is bool or self._limits == (0, 1)

    def _whole(self, value: Any) -> int:
        whole = round(value)
        if whole != value:
            raise ValueError(f"{self.name} is a whole number, not {value!r}")
        return whole

    def set(self, value: Any, **kwargs: Any) -> Status:
        """Refuse a wrong value here and now; whatever fails after that is the answer of the Status."""
        self.check_value(value)
        return settled(PlainStatus(self), lambda: self.put(value))

    @property
    def shown(self) -> str:
        """The value for a table."""
        value, decimals = self._readback, self._precision
        return f"{value:.{decimals}f}" if decimals is not None and isinstance(value, float) else str(value)

    def __repr__(self) -> str:
        parts = [self.shown, self._units, f"({self.range})" if self.range else "", self.meaning and f": {self.meaning}"]
        return f"<{self.name} = {' '.join(filter(None, parts))}>".replace(" :", ":")

    def _key(self, source: str) -> dict[str, DataKey]:
        key = scalar_key(source, self._readback, self._units)
        if self._choices is not None:
            key["choices"] = list(self._choices)
        if self._limits is not None:
            key["limits"] = {"control": {"low": float(self._limits[0]), "high": float(self._limits[1])}}
        if self._precision is not None:
            key["precision"] = self._precision
        return {self.name: key}


def _plain_number(value: float) -> str:
    """A limit as people write it: 4294967295, not 4.29497e+09."""
    return str(int(value)) if value == int(value) else f"{value:g}"


class Setting(_Bounded):
    """A value that a user chooses: checked when it is set, kept by the device, no hardware behind it."""

    def put(self, value: Any, **kwargs: Any) -> None:
        """Check and keep `value` in the type of the setting."""
        super().put(self.normal(value), force=True, **kwargs)

    @property
    def hints(self) -> dict[str, list[str]]:
        """A setting that is scanned is its own axis, whatever its kind."""
        return {"fields": [self.name]}

    def describe(self) -> dict[str, DataKey]:
        return self._key(f"TPX3:setting:{self.attr_name}")


class RunSetting(Setting):
    """A setting that acts when a run opens, and is refused while one is recorded: documents would tell what was not.

    The root device says whether it may change (`may_change`).
    """

    def put(self, value: Any, **kwargs: Any) -> None:
        """Raises RuntimeError for another value while a run is recorded."""
        wanted = self.normal(value)
        may_change = getattr(self.root, "may_change", None)
        if may_change is not None and wanted != self.get():
            may_change(self.name)
        super().put(wanted, **kwargs)


def run_setting(value: Scalar, **kwargs: Any) -> Any:
    """Declare a RunSetting of kind config."""
    return Cpt(RunSetting, value=value, kind=Kind.config, **kwargs)


def setting(value: Scalar, **kwargs: Any) -> Any:
    """Declare a Setting of kind config."""
    return Cpt(Setting, value=value, kind=Kind.config, **kwargs)


def result(value: Scalar, units: str = "", kind: Kind = Kind.normal, meaning: str = "") -> Any:
    """Declare a Quantity."""
    return Cpt(Quantity, value=value, units=units, kind=kind, meaning=meaning)


class Hardware(_Bounded):
    """A quantity of the hardware: `get` asks it, `put` sets it and keeps what the hardware reads back.

    Subclasses say how to `ask` and `tell`; both find the verbs in `control` when they are called. `last` is the value
    of the last contact: it asks nobody, so it serves where the board may be off, and in the configuration of a run.
    """

    recorded = False
    """Whether it belongs to the configuration of the camera: read at `connect`, recorded with every run."""
    settable = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen = False
        """Whether the hardware has told its value yet."""
        self._telling: set[int] = set()
        """Threads in which subscribers are being told: bluesky's monitor reads the signal in its callback."""
        self.shown_by: tuple[str, ...] = (self.name,)
        """Keys of events that tell this value."""

    @property
    def control(self) -> Any:
        """The verbs of the device that this is a quantity of: those of a `Chip` or of the `Board`."""
        device = self.parent
        while not hasattr(type(device), "control"):
            device = device.parent
        return device.control

    def ask(self) -> Scalar:
        """The value from the hardware."""
        raise NotImplementedError(f"{type(self).__name__} cannot be read")

    def tell(self, value: Any) -> None:
        """Set the hardware; return when it has the value."""
        raise ValueError(f"{self.name} cannot be set, only read")

    @property
    def source(self) -> str:
        """Where the value lives, for `describe()`."""
        return f"SPIDR:{self.dotted_name}"

    @property
    def last(self) -> Any:
        """The value of the last contact with the board."""
        return self._readback

    @property
    def connected(self) -> bool:
        """Whether the board can be asked, as far as this end knows."""
        return bool(getattr(self.root, "online", False))

    def get(self, **kwargs: Any) -> Any:
        """The value, asked now. A subscriber that asks while it is told gets what it is told."""
        if threading.get_ident() not in self._telling:
            self.note(self._type(self.ask()))
        return self._readback

    def read(self) -> dict[str, dict[str, Any]]:
        """The value, asked now: a line that is closed is opened for it."""
        value = self.get()
        return {self.name: {"value": value, "timestamp": self.timestamp}}

    def put(self, value: Any, **kwargs: Any) -> None:
        """Check against the limits, set the hardware, keep what it reads back."""
        self.tell(self.normal(value))
        self.get()

    def note(self, value: Scalar, *, always: bool = False) -> None:
        """Keep what the hardware said. Subscribers are told of a change, or `always`."""
        if always or value != self._readback or not self.seen:
            self.seen = True
            with self._being_told():
                Signal.put(self, value, force=True)
        else:
            self._metadata["timestamp"] = time.time()

    @contextlib.contextmanager
    def _being_told(self) -> Iterator[None]:
        """Meanwhile `get` in this thread gives the last value."""
        thread = threading.get_ident()
        outermost = thread not in self._telling
        self._telling.add(thread)
        try:
            yield
        finally:
            if outermost:
                self._telling.discard(thread)

    @property
    def hints(self) -> dict[str, list[str]]:
        """A setting that is scanned is its own axis, whatever its kind."""
        hints: dict[str, list[str]] = {"fields": [self.name]} if self.settable else super().hints
        return hints

    def describe(self) -> dict[str, DataKey]:
        return self._key(self.source)

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        """As last seen: a configuration is read in the midst of plans, and by whoever looks at a camera that is off."""
        return {self.name: {"value": self.last, "timestamp": self.timestamp}}

    def describe_configuration(self) -> dict[str, DataKey]:
        return self.describe()

    @property
    def shown(self) -> str:
        """The last value for a table; `?` before the hardware was asked."""
        return super().shown if self.seen else "?"


class Verb(Hardware):
    """A quantity that is read, and perhaps set, by verbs of the control room."""

    def __init__(
        self,
        *,
        ask: Callable[[Any], Scalar],
        tell: Callable[[Any, Any], None] | None = None,
        show: Callable[[Any], str] | None = None,
        entry: str = "",
        recorded: bool = False,
        **kwargs: Any,
    ) -> None:
        self._ask = ask
        self._tell = tell
        self._show = show
        self._entry = entry
        self.recorded = recorded
        self.settable = tell is not None
        super().__init__(**kwargs)

    def ask(self) -> Scalar:
        return self._ask(self.control)

    def tell(self, value: Any) -> None:
        if self._tell is None:
            super().tell(value)
        else:
            self._tell(self.control, value)

    def put(self, value: Any, **kwargs: Any) -> None:
        if self._tell is None:
            self.tell(value)
        super().put(value, **kwargs)

    def set(self, value: Any, **kwargs: Any) -> Status:
        if self._tell is None:
            self.tell(value)
        return super().set(value, **kwargs)

    @property
    def shown(self) -> str:
        return self._show(self._readback) if self._show is not None and self.seen else super().shown

    @property
    def source(self) -> str:
        return f"SPIDR:{self._entry}" if self._entry else super().source


class Monitored(Verb):
    """A measured quantity. While somebody subscribes to it, it is asked every `period` of the board's monitor."""

    def __init__(self, **kwargs: Any) -> None:
        self._watch: Any = None
        self._watch_lock = threading.RLock()
        super().__init__(**kwargs)

    @property
    def watched(self) -> bool:
        """Whether somebody subscribes to its value."""
        return bool(self._callbacks[self.SUB_VALUE])

    def subscribe(self, callback: Callable[..., Any], event_type: str | None = None, run: bool = True) -> int:
        """Call `callback` at each poll; with `run`, at once with the last value, unless a first poll comes at once."""
        polled = self._watch is not None
        with self._being_told():
            number: int = super().subscribe(callback, event_type=event_type, run=run and polled)
        self.mind_watch()
        return number

    def unsubscribe(self, cid: int) -> None:
        super().unsubscribe(cid)
        self.mind_watch()

    def unsubscribe_all(self) -> None:
        super().unsubscribe_all()
        self.mind_watch()

    def destroy(self) -> None:
        self.rest()
        super().destroy()

    def mind_watch(self) -> None:
        """Poll while there are subscribers, and not otherwise."""
        with self._watch_lock:
            if not self.watched:
                self.rest()
            elif self._watch is None:
                self._watch = self.root.watch(self._poll)

    def rest(self) -> None:
        """Poll no more, until `mind_watch`."""
        with self._watch_lock:
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    def _poll(self) -> None:
        self.note(self._type(self.ask()), always=True)


def measured(entry: Entry, kind: Kind = Kind.normal) -> Any:
    """Declare a quantity of the protocol's table of measured quantities."""
    return Cpt(
        Monitored, ask=lambda board: board.measure(entry), units=entry.unit, entry=entry.command.name,
        meaning=entry.meaning, precision=entry.precision, value=0.0, kind=kind,
    )  # fmt: skip


def counted(question: Callable[[Any], int], units: str, entry: str, meaning: str) -> Any:
    """Declare a Monitored counter, by the verb that asks for it."""
    return Cpt(Monitored, ask=question, units=units, entry=entry, meaning=meaning, value=0, kind=Kind.normal)


def settable(
    ask: Callable[[Any], Scalar],
    tell: Callable[[Any, Any], None],
    value: Scalar,
    entry: str,
    meaning: str,
    **kwargs: Any,
) -> Any:
    """Declare a setting of the hardware: the verbs that read and set it; kind config, recorded with every run."""
    return Cpt(
        Verb, ask=ask, tell=tell, value=value, entry=entry, meaning=meaning, recorded=True, kind=Kind.config, **kwargs
    )


def switch(ask: Callable[[Any], bool], tell: Callable[[Any, bool], None], entry: str, meaning: str) -> Any:
    """Declare a setting that is off or on."""
    return settable(
        lambda control: ON if ask(control) else OFF,
        lambda control, value: tell(control, value == ON),
        OFF,
        entry,
        meaning,
        choices=(OFF, ON),
    )
