"""Gates as signals: eight slots, each windows of time of flight or m/q, ToT and size and a region, with their counts.

A slot that is on is in the documents and in the plots; one that is off leaves no trace in them. Which slots are on is
fixed while a run is recorded, because the keys of a run are; their windows may change from point to point, and may be
scanned. Knows the model of a gate, not how it is counted.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from ophyd import Component as Cpt
from ophyd import Device, Kind
from pydantic import ValidationError

from ..config import Gate, MassCalibration
from ..config.gates import Window, check_gates
from ..events.sums import N_GATES, PointArrays
from ..pipeline.messages import Counting, GateResult
from .signals import OFF, ON, ArrayQuantity, Setting, array, result, setting
from .text import table

_LABEL: Final = re.compile("[A-Za-z][A-Za-z0-9_]{0,39}")
NONE: Final = 0.0
"""A bound of 0 bounds nothing: documents have no other word for "none"."""


def _bound(units: str, high: float, meaning: str) -> Any:
    return setting(NONE, units=units, limits=(0.0, high), meaning=f"{meaning}; 0: none")


class _Switch(Setting):
    """On or off, between runs."""

    def put(self, value: Any, **kwargs: Any) -> None:
        wanted = self.normal(value)
        if wanted != self.get():
            self.parent.may_switch()
        super().put(wanted, **kwargs)
        self.parent.show()


class _Label(Setting):
    """Part of the names of columns, when the run is asked again with `regate`."""

    def put(self, value: Any, **kwargs: Any) -> None:
        """Raises ValueError for what no gate can be called."""
        if value and not _LABEL.fullmatch(str(value)):
            raise ValueError(
                f"{self.name} is no name for a gate: {value!r}; give at most 40 letters, digits and _, a letter first"
            )
        super().put(value, **kwargs)


class GateSlot(Device):
    """One gate. `adopt` takes it from a model; `model` gives it."""

    enabled = Cpt(
        _Switch, value=OFF, choices=(OFF, ON), kind=Kind.config, meaning="whether it counts; set between runs"
    )
    label = Cpt(_Label, value="", kind=Kind.config, meaning="name of the gate; empty: that of the slot")
    tof_min = _bound("ns", 1e9, "earliest time of flight")
    tof_max = _bound("ns", 1e9, "time of flight after the latest")
    mq_min = _bound("u/e", 1e6, "least mass over charge, instead of times of flight")
    mq_max = _bound("u/e", 1e6, "mass over charge above the largest")
    x_min = _bound("pixel", 1e5, "region: first column")
    x_max = _bound("pixel", 1e5, "region: column after the last")
    y_min = _bound("pixel", 1e5, "region: first row")
    y_max = _bound("pixel", 1e5, "region: row after the last")
    ring_x = setting(0.0, units="pixel", limits=(-1e5, 1e5), meaning="round region instead: column of its centre")
    ring_y = setting(0.0, units="pixel", limits=(-1e5, 1e5), meaning="row of its centre")
    ring_min = _bound("pixel", 1e5, "least distance from the centre")
    ring_max = _bound("pixel", 1e5, "distance from the centre above the largest")
    tot_min = _bound("25 ns", 1e9, "least sum of ToT")
    tot_max = _bound("25 ns", 1e9, "sum of ToT above the largest")
    size_min = _bound("hits", 1e6, "least size of a cluster")
    size_max = _bound("hits", 1e6, "size of a cluster above the largest")

    counts = result(0, "centroids", Kind.hinted, meaning="centroids of valid shots in the gate")
    counts_per_shot = result(math.nan, "1/shot", Kind.hinted, meaning="the same per valid shot; NaN without one")
    error = result(math.nan, "1/shot", meaning="standard error of that; NaN with fewer than 2 valid shots")
    image = array("counts", "picture of the gate", shape=(256, 256))

    @property
    def is_on(self) -> bool:
        return bool(self.enabled.get() == ON)

    @property
    def title(self) -> str:
        """What the gate is called."""
        return str(self.label.get()) or str(self.attr_name)

    def may_switch(self) -> None:
        """Raise RuntimeError while a run is recorded: its documents have their keys."""
        detector = self.parent.parent
        if detector.recording_run is not None:
            raise RuntimeError(
                f"{self.name} cannot be switched on or off while {detector.name} records a run, whose columns are "
                "fixed; switch it before the run. Its windows may change between points"
            )

    def show(self) -> None:
        """Be in the documents and plots when it is on."""
        self.kind = Kind.normal if self.is_on else Kind.omitted
        self.parent.show()

    def bounds(self, quantity: str) -> Window | None:
        """The window of tof, mq, x, y, ring, tot or size; None where both bounds are 0."""
        low, high = (getattr(self, f"{quantity}_{end}").get() for end in ("min", "max"))
        return None if low == high == NONE else (low or None, high or None)

    def model(self, width_px: int = 256, height_px: int = 256) -> Gate:
        """The gate. Raises ValueError when its bounds contradict each other. Size of the picture: for open regions."""
        x, y = self.bounds("x"), self.bounds("y")
        roi = None
        if x is not None or y is not None:
            (x0, x1), (y0, y1) = x or (None, None), y or (None, None)
            roi = (x0 or 0.0, x1 or width_px, y0 or 0.0, y1 or height_px)
        ring = None
        if (radii := self.bounds("ring")) is not None:
            farthest = abs(self.ring_x.get()) + abs(self.ring_y.get()) + width_px + height_px
            ring = (self.ring_x.get(), self.ring_y.get(), radii[0] or 0.0, radii[1] or farthest)
        windows = {name: self.bounds(name) for name in ("tof", "mq", "tot", "size")}
        try:
            return Gate(name=self.title, roi=roi, ring=ring, **windows)
        except ValidationError as error:
            raise ValueError(
                f"{self.name}: {'; '.join(one['msg'].removeprefix('Value error, ') for one in error.errors())}"
            ) from None

    def adopt(self, gate: Gate) -> None:
        """Take name and windows of a gate. Raises ValueError for what a slot has no signals for."""
        check_slot(gate)
        x, y = (gate.roi[:2], gate.roi[2:]) if gate.roi is not None else (None, None)
        centre, radii = (gate.round[:2], gate.round[2:]) if gate.round is not None else ((0.0, 0.0), None)
        windows = {"tof": gate.tof, "mq": gate.mq, "tot": gate.tot, "size": gate.size, "x": x, "y": y, "ring": radii}
        self.ring_x.put(centre[0])
        self.ring_y.put(centre[1])
        for name, window in windows.items():
            for end, value in zip(("min", "max"), window or (None, None), strict=True):
                getattr(self, f"{name}_{end}").put(max(value or NONE, NONE))
        self.label.put(gate.name)

    def publish(self, found: GateResult) -> None:
        """What it counted."""
        self.counts_per_shot.publish(_or_nan(found.counts_per_shot))
        self.error.publish(_or_nan(found.error))
        self.counts.publish(found.counts)

    def __repr__(self) -> str:
        windows = [
            f"{name} {window[0] or 'any'} to {window[1] or 'any'}"
            for name in ("tof", "mq", "x", "y", "ring", "tot", "size")
            if (window := self.bounds(name))
        ]
        return f"<{self.name} {self.title!r}: {', '.join(windows) or 'all'}, {self.enabled.get()}>"


class Gates(Device):
    """The slots `gate0` ... `gate7`. `define` sets all of them from models; `counting` is what a point counts."""

    gate0 = Cpt(GateSlot, "", kind=Kind.omitted)
    gate1 = Cpt(GateSlot, "", kind=Kind.omitted)
    gate2 = Cpt(GateSlot, "", kind=Kind.omitted)
    gate3 = Cpt(GateSlot, "", kind=Kind.omitted)
    gate4 = Cpt(GateSlot, "", kind=Kind.omitted)
    gate5 = Cpt(GateSlot, "", kind=Kind.omitted)
    gate6 = Cpt(GateSlot, "", kind=Kind.omitted)
    gate7 = Cpt(GateSlot, "", kind=Kind.omitted)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._counted: tuple[GateSlot, ...] = ()
        """The slots of the exposure that goes on, or was last, in their order."""
        super().__init__(*args, **kwargs)

    @property
    def slots(self) -> tuple[GateSlot, ...]:
        return tuple(getattr(self, name) for name in self.component_names)

    @property
    def on(self) -> tuple[GateSlot, ...]:
        """The slots that count, in their order."""
        return tuple(slot for slot in self.slots if slot.is_on)

    def __repr__(self) -> str:
        """The gates that are on, and what they counted last."""
        rows = [("slot", "label", "counts", "per shot", "error")]
        for slot in self.on:
            per_shot, error = (f"{signal.get():.4g}" for signal in (slot.counts_per_shot, slot.error))
            rows.append((slot.attr_name, slot.title, str(slot.counts.get()), per_shot, error))
        return table(rows) if self.on else f"<{self.name}: none is on; {self.name.replace('_', '.')}.define(Gate(...))>"

    def find(self, name: str) -> GateSlot:
        """The slot that counts under this label, or that is called so. Raises ValueError."""
        for slot in self.on:
            if name in (slot.title, slot.attr_name):
                return slot
        on = ", ".join(repr(slot.title) for slot in self.on) or "none"
        raise ValueError(f"no gate {name!r} is on; on are: {on}")

    def define(self, *gates: Gate) -> None:
        """These gates and no others: into the first slots, on; the other slots off."""
        if len(gates) > N_GATES:
            raise ValueError(f"{len(gates)} gates were given, there are {N_GATES} slots")
        check_names(gates)
        for gate in gates:
            check_slot(gate)
        for place, slot in enumerate(self.slots):
            if slot.is_on is not (place < len(gates)):
                slot.may_switch()
        for place, slot in enumerate(self.slots):
            if place < len(gates):
                slot.adopt(gates[place])
            slot.enabled.put(ON if place < len(gates) else OFF)

    def show(self) -> None:
        """Gates are plotted instead of all centroids, where there are any."""
        self.parent.n_centroids.kind = Kind.normal if self.on else Kind.hinted

    def counting(self, calibration: MassCalibration | None) -> Counting:
        """What the pipeline is asked to count. Raises ValueError, with what to do, for gates that hold nothing."""
        slots, detector = self.on, self.parent
        self._counted = slots
        if not slots:
            return Counting()
        geometry, processing = detector.picture, detector.processing.model
        models = [slot.model(geometry.width_px, geometry.height_px) for slot in slots]
        if calibration is None and any(gate.mq is not None for gate in models):
            raise ValueError(
                f"gates of {self.name} are windows of m/q, and {detector.name} has no calibration of m/q; "
                f"run the plan calibrate_mass({detector.name}, ...), or set {detector.name}.mass"
            )
        check_gates(models, geometry, processing, calibration)
        return Counting(gates=tuple(models), calibration=calibration)

    def publish(self, found: Sequence[GateResult]) -> None:
        """What they counted, in their order."""
        for slot, one in zip(self._counted, found, strict=False):
            slot.publish(one)

    def publish_live(self, sums: PointArrays) -> None:
        """What they have counted until now."""
        for place, slot in enumerate(self._counted):
            now = sums.gate(place)
            slot.counts_per_shot.publish(now.counts_per_shot)
            slot.error.publish(now.error)
            slot.counts.publish(now.counts)

    def publish_images(self, sums: PointArrays, *, everybody: bool) -> None:
        """Their pictures; everybody: also those that nobody subscribes to."""
        for place, slot in enumerate(self._counted):
            publish_array(slot.image, sums.gate_images[place], everybody=everybody)


class _MassSetting(Setting):
    """A number of the calibration, which stands in the configuration as a whole too."""

    def put(self, value: Any, **kwargs: Any) -> None:
        super().put(value, **kwargs)
        self.parent.tell()


def _of_mass(units: str, low: float, meaning: str) -> Any:
    return Cpt(_MassSetting, value=0.0, units=units, limits=(low, 1e9), meaning=meaning, kind=Kind.config)


class MassSettings(Device):
    """The calibration of m/q: t = t0 + k sqrt(m/q). `calibrate_mass` finds it; k = 0: there is none."""

    t0 = _of_mass("ns", -1e9, "time of flight of a massless ion")
    k = _of_mass("ns/sqrt(u/e)", 0.0, "flight of an ion of 1 u/e after t0; 0: unknown")
    t0_error = _of_mass("ns", 0.0, "standard error of t0; 0: unknown")
    k_error = _of_mass("ns/sqrt(u/e)", 0.0, "standard error of k; 0: unknown")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._adopted: MassCalibration | None = None
        super().__init__(*args, **kwargs)

    @property
    def model(self) -> MassCalibration | None:
        """The calibration, with the peaks that it was fitted to while nobody changed it by hand."""
        k = self.k.get()
        if k <= 0:
            return None
        errors = {f"{name}_ns": getattr(self, name).get() or None for name in ("t0_error", "k_error")}
        own = MassCalibration(t0_ns=self.t0.get(), k_ns=k, **errors)
        adopted = self._adopted
        same = adopted is not None and adopted.model_copy(update={"peaks": ()}) == own
        return adopted if same else own

    def adopt(self, calibration: MassCalibration | None) -> None:
        """Set all from a model; None: there is none."""
        self._adopted = calibration
        for name in self.component_names:
            value = 0.0 if calibration is None else getattr(calibration, f"{name}_ns")
            getattr(self, name).put(value or 0.0)

    def as_text(self) -> str:
        """For a person, in a few words."""
        model = self.model
        return "no calibration of m/q" if model is None else f"t = {model.t0_ns:.6g} + {model.k_ns:.6g} sqrt(m/q) ns"

    def __repr__(self) -> str:
        model = self.model
        return f"<{self.name}: {self.as_text() if model is None else model.as_text()}>"

    def tell(self) -> None:
        """The whole as JSON in the configuration, where the catalog looks for it; empty: none."""
        model = self.model
        self.parent.mass_calibration.publish("" if model is None else json.dumps(model.model_dump(mode="json")))


def check_slot(gate: Gate) -> None:
    """Raise ValueError for a gate that a slot has no signals for."""
    if gate.polygon is not None:
        raise ValueError(
            f"the gate {gate.name!r} has a polygon, a slot takes a region of columns and rows (roi), a circle or a "
            "ring; count in a polygon afterwards, with `regate`"
        )


def check_names(gates: Sequence[Gate]) -> None:
    """Raise ValueError for two gates of one name."""
    check_gates(gates, calibration=MassCalibration(t0_ns=0.0, k_ns=1.0))


def publish_array(signal: ArrayQuantity, values: Any, *, everybody: bool) -> None:
    """Publish an array, or leave it when nobody looks: a copy costs."""
    if everybody or signal.watched:
        signal.publish(values)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
