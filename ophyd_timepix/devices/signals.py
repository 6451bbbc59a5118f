"""The kinds of signal that the devices are declared with.

A signal carries its unit and its source into `describe()`, so that a catalog, a plot or a person can read what a
number is. Hardware signals reach their board through the root device and only when they are used: making one never
touches the network.
"""

from collections.abc import Callable
from typing import Any

from ophyd import Component as Cpt
from ophyd import Kind, Signal, SignalRO
from ophyd.status import Status

from .status import PlainStatus

DataKey = dict[str, Any]
Scalar = float | int | str | bool
Limits = tuple[float, float]


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

    def __init__(self, *, value: Scalar, units: str = "", **kwargs: Any) -> None:
        super().__init__(value=value, **kwargs)
        self._type = type(value)
        self._units = units

    def publish(self, value: Scalar) -> None:
        """Set the value; subscribers are told."""
        Signal.put(self, self._type(value), force=True)

    def describe(self) -> dict[str, DataKey]:
        return {self.name: scalar_key(f"TPX3:{self.attr_name}", self._readback, self._units)}


class _Bounded(Signal):
    """A signal with a unit, limits and a type, set at once: its Status is done when `set` returns."""

    def __init__(
        self,
        *,
        value: Scalar,
        units: str = "",
        limits: Limits | None = None,
        choices: tuple[str, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(value=value, **kwargs)
        self._type = type(value)
        self._units = units
        self._limits = limits
        self._choices = choices

    @property
    def limits(self) -> Limits:
        """Lowest and highest value; (0, 0): none."""
        return self._limits or (0, 0)

    @property
    def units(self) -> str:
        return self._units

    def check_value(self, value: Any) -> None:
        """Raise ValueError unless `value` may be set."""
        if self._choices is not None and value not in self._choices:
            raise ValueError(f"{self.name} is one of {', '.join(self._choices)}, not {value!r}")
        if self._limits is not None and not self._limits[0] <= value <= self._limits[1]:
            low, high = self._limits
            raise ValueError(f"{self.name} goes from {low:g} to {high:g} {self._units}".rstrip() + f", not {value!r}")

    def set(self, value: Any, **kwargs: Any) -> Status:
        """Refuse a wrong value here and now; whatever fails after that is the answer of the Status."""
        self.check_value(value)
        status = PlainStatus(self)
        try:
            self.put(value)
        except Exception as error:  # noqa: BLE001 - a Status carries any failure to whoever waits for it
            status.set_exception(error)
        else:
            status.set_finished()
        return status

    def _key(self, source: str) -> dict[str, DataKey]:
        key = scalar_key(source, self._readback, self._units)
        if self._choices is not None:
            key["choices"] = list(self._choices)
        if self._limits is not None:
            key["limits"] = {"control": {"low": float(self._limits[0]), "high": float(self._limits[1])}}
        return {self.name: key}


class Setting(_Bounded):
    """A value that a user chooses: checked when it is set, kept by the device, no hardware behind it."""

    def check_value(self, value: Any) -> None:
        super().check_value(value)
        if self._type is int and value != int(value):
            raise ValueError(f"{self.name} is a whole number, not {value!r}")

    def put(self, value: Any, **kwargs: Any) -> None:
        """Check and keep `value` in the type of the setting."""
        self.check_value(value)
        super().put(self._type(value), **kwargs)

    def describe(self) -> dict[str, DataKey]:
        return self._key(f"TPX3:setting:{self.attr_name}")


def setting(value: Scalar, **kwargs: Any) -> Any:
    """Declare a Setting of kind config."""
    return Cpt(Setting, value=value, kind=Kind.config, **kwargs)


def result(value: Scalar, units: str = "", kind: Kind = Kind.normal) -> Any:
    """Declare a Quantity."""
    return Cpt(Quantity, value=value, units=units, kind=kind)


class Hardware(_Bounded):
    """A quantity of the board: `get` asks it, `put` sets it and keeps what the board reads back.

    Subclasses say how to `ask` and `tell`; both find the control verbs at the root device when they are called.
    `last` is the value of the last contact: it asks nobody, so it serves where the board may be off.
    """

    def ask(self) -> Scalar:
        """The value from the hardware."""
        raise NotImplementedError(f"{type(self).__name__} cannot be read")

    def tell(self, value: Any) -> None:
        """Set the hardware; return when it has the value."""
        raise ValueError(f"{self.name} cannot be set, only read")

    @property
    def source(self) -> str:
        """Where the value lives, for `describe()`."""
        return f"SPIDR:{self.attr_name}"

    @property
    def last(self) -> Any:
        """The value of the last contact with the board."""
        return self._readback

    def get(self, **kwargs: Any) -> Any:
        value = self._type(self.ask())
        Signal.put(self, value, force=True)
        return value

    def put(self, value: Any, **kwargs: Any) -> None:
        """Check against the limits, set the hardware, keep what it reads back."""
        self.check_value(value)
        self.tell(value)
        self.get()

    def describe(self) -> dict[str, DataKey]:
        return self._key(self.source)


class Monitored(Hardware):
    """A read-only quantity of the board, by the question that asks for it."""

    def __init__(self, *, question: Callable[[Any], float], **kwargs: Any) -> None:
        self._question = question
        kwargs.setdefault("value", 0.0)
        super().__init__(**kwargs)

    def ask(self) -> float:
        return self._question(self.root.control)
