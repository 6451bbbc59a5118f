"""A SPIDR board as an ophyd device, with its chips. A root of its own: the detector uses it, but does not own it.

Nothing here touches the network before it is asked for a value: a camera that is off does not stop a profile from
loading. The verbs are those of `ophyd_timepix.control`.
"""

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..config import BoardConfig, diff
from ..control import DEFAULT_PORT, DEFAULT_TIMEOUT_S, Board, BoardInfo, ChipMissing, ControlError, SpidrClient
from ..control.configuration import Applied, apply_configuration, read_configuration
from .bias import Bias
from .chip import Timepix3Chip
from .configuration import last_seen
from .monitor import Clock, Monitor, Tdc
from .shutter import Shutter
from .signals import Hardware, Monitored
from .text import Text

logger = logging.getLogger(__name__)

MAX_CHIPS = 4


class SpidrBoard(Device):
    """`SpidrBoard("192.168.100.10:50000", name="spidr", chips=1)`: the board, and `chip0` ... `chip3`.

    chips: how many chips are expected, from chip 0 on; `connect` says so when one of them is missing or not locked.
    control: makes the control object instead of a TCP client (for tests).
    """

    bias = Cpt(Bias, "", kind=Kind.normal)
    shutter = Cpt(Shutter, "", kind=Kind.config)
    clock = Cpt(Clock, "", kind=Kind.config)
    tdc = Cpt(Tdc, "", kind=Kind.config)
    monitor = Cpt(Monitor, "", kind=Kind.omitted)

    def __new__(cls, address: str = "", *args: Any, chips: int = 1, **kwargs: Any) -> "SpidrBoard":
        return super().__new__(_with_chips(cls, chips))

    def __init__(
        self,
        address: str,
        *,
        name: str,
        chips: int = 1,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        control: Callable[[], Board] | None = None,
        **kwargs: Any,
    ) -> None:
        self.host, self.port = parse_address(address)
        self.n_chips = chips
        self.info: BoardInfo | None = None
        """What the board said at the last `connect`; None before."""
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        """The detectors that were made for it; it sends to one at a time."""
        self._make_control = control or (lambda: Board(SpidrClient(self.host, self.port, timeout_s=timeout_s)))
        self._control: Board | None = None
        self._settings: tuple[tuple[str, Hardware], ...] = ()
        super().__init__(address, name=name, **kwargs)

    @property
    def control(self) -> Board:
        """The board's verbs (`ophyd_timepix.control.Board`). Its first request connects."""
        if self._control is None:
            self._control = self._make_control()
        return self._control

    @property
    def chips(self) -> tuple[Timepix3Chip, ...]:
        """The declared chips."""
        return tuple(getattr(self, f"chip{index}") for index in range(self.n_chips))

    # --- the line

    def connect(self) -> BoardInfo:
        """Identify the board, check that each declared chip is there and locked, and read all settings."""
        info = self.control.identify()
        missing = [index for index in range(self.n_chips) if index not in info.present]
        if missing:
            found = "; ".join(map(str, info.chips)) or "none"
            raise ChipMissing(
                f"{self.name} at {self.host}:{self.port}: chip {missing[0]} is declared (chips={self.n_chips}) and not "
                f"there, or its links are not locked; found: {found}. Check its power and cable and reset the board "
                f"({self.name}.reset()){_or_declare(missing[0], info)}"
            )
        self.refresh()
        self.info = info
        for signal in self._monitored():
            signal.mind_watch()
        return info

    def disconnect(self) -> None:
        """Hang up. The board serves one client at a time; the next request of this one connects again.

        Subscribed quantities are not polled until `connect`.
        """
        self.bias.stop()
        for signal in self._monitored():
            signal.rest()
        if self._control is not None:
            self._control.close()

    @property
    def online(self) -> bool:
        """Whether the line to the board is open, as far as this end knows. Asks nobody."""
        return self._control is not None and self._control.client.connected

    @property
    def connected(self) -> bool:
        """The same: False before the first contact and after the line was lost, until the board answers again."""
        return self.online

    def wait_for_connection(self, all_signals: bool = False, timeout: float | None = None) -> None:
        """Connect, if there is no connection. Raises ControlError within the board's timeout."""
        if not self.online:
            self.connect()

    def line(self) -> tuple[int, object]:
        """Names the connection: what was set over another one may be gone."""
        return (self.control.client.connections, self._control)

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Several requests as one step."""
        return self.control.client.exclusive()

    def watch(self, job: Callable[[], None]) -> Any:
        """Call `job` every `monitor.period`, until the answer's `cancel()`."""
        return self.control.poller.every(self.poll_period, job)

    def poll_period(self) -> float:
        """Seconds between polls of subscribed quantities."""
        return float(self.monitor.period.get())

    def reset(self, *, reapply: bool = True) -> str:
        """Reset board and chips, then set again what was set before, unless `reapply` is off. Takes seconds.

        Returns what was set again. Raises ControlError that names a setting which the board does not take.
        """
        self.bias.stop()
        before = self._before_reset() if reapply else None
        self.control.reset()
        applied = ""
        if before is not None:
            applied = str(apply_configuration(self.control, before, ramp_v_per_s=self.bias.ramp_rate.get()))
            self._hold_bias(before)
        for chip in self.chips:
            chip.matrix.forget()
        self.connect()
        return Text(applied)

    def _before_reset(self) -> BoardConfig | None:
        """The settings to come back to; None where nobody knows them."""
        try:
            return self.configuration()
        except (ControlError, ValueError) as error:
            logger.warning("the settings of %s cannot be read, so none are set again after its reset: %s", self, error)
            return None

    def _hold_bias(self, config: BoardConfig) -> None:
        """Set the bias of `config` where it was only found right by the ADC.

        After a reset the supply may be on its way to the voltage that the board comes up with, and pass the right one.
        """
        bias = config.bias
        if bias is not None and bias.enabled and bias.volts is not None and self.control.bias_setting is None:
            self.control.ramp_bias(
                bias.volts, rate_v_per_s=self.bias.ramp_rate.get(), tolerance_v=self.bias.tolerance.get()
            )

    # --- settings

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write all settings, read from the board now, to PATH.yaml and PATH.matrix.npz. Returns the yaml's path."""
        return self.read_settings().save(path, overwrite=overwrite)

    def load(self, path: str | Path, *, any_chip: bool = False) -> Applied:
        """Apply the settings of a file (a board's or a detector's): all of them, or none. Returns what changed.

        any_chip: also to another chip than the file names.
        """
        return self.apply(BoardConfig.load(path), any_chip=any_chip)

    def diff(self, path: str | Path) -> Text:
        """What differs between the board, read now, and a file; empty: nothing. A line each, board -> file."""
        return Text("\n".join(map(str, diff(self.read_settings(), BoardConfig.load(path)))))

    def apply(self, config: BoardConfig, *, any_chip: bool = False) -> Applied:
        """Set what differs from `config`: all of it, or nothing. Raises ApplyError that names the setting."""
        self.bias.stop()
        rate = self.bias.ramp_rate.get()
        try:
            applied = apply_configuration(self.control, config, any_chip=any_chip, ramp_v_per_s=rate)
        finally:
            for chip in self.chips:
                chip.matrix.forget()
        for wanted in config.chips:
            if wanted.index < self.n_chips:
                self.chips[wanted.index].column_phase = wanted.column_phase
        self.connect()
        return applied

    def read_settings(self) -> BoardConfig:
        """All settings, read from the board now."""
        self.connect()
        config = read_configuration(self.control, range(self.n_chips))
        phases = {chip.index: chip.column_phase for chip in self.chips}
        return config.changed(chips=tuple(chip.changed(column_phase=phases[chip.index]) for chip in config.chips))

    def refresh(self) -> None:
        """Read all settings of board and chips. A matrix is read once per connection."""
        for device in (self.bias, self.shutter, self.clock, self.tdc, *self.chips):
            device.refresh()

    def settings(self) -> tuple[tuple[str, Hardware], ...]:
        """Every setting that belongs to the configuration, with a short name."""
        if not self._settings:
            self._settings = tuple(
                (name.replace("dacs.", "").replace("config.", "").replace(".", "_"), signal)
                for name, signal in _hardware(self)
                if signal.recorded
            )
        return self._settings

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        """All settings as last seen. Connects when none was seen yet."""
        if self.info is None:
            self.connect()
        reading: dict[str, dict[str, Any]] = super().read_configuration()
        return reading

    def configuration(self) -> BoardConfig:
        """All settings as last seen, as the model that is saved and compared. Connects when none was seen yet."""
        if self.info is None:
            self.connect()
        return last_seen(self)

    def _monitored(self) -> Iterator[Monitored]:
        return (signal for _, signal in _hardware(self) if isinstance(signal, Monitored))

    # --- for a person at a prompt

    def summary(self) -> Text:
        """What is connected, set and measured. Asks the board."""
        info = self.connect()
        lines = [
            f"SPIDR board {self.name} at {self.host}:{self.port}",
            f"  software {info.software_version}, firmware {info.firmware_version}",
            f"  {self.bias!r}".replace("<", "").replace(">", ""),
            f"  shutter {self.shutter.state.last} (last command), mode {self.shutter.mode.shown}",
            f"  clock external: {self.clock.external.shown}; TDC word {self.tdc.word.shown}",
        ]
        for name in ("chip_temperature", "board_temperature", "fpga_temperature"):
            signal = getattr(self.monitor, name)
            signal.get()
            lines.append(f"  {signal.meaning}: {signal.shown} {signal.units}")
        for chip, said in zip(self.chips, info.chips, strict=False):
            fine, coarse = chip.dacs.vthreshold_fine.last, chip.dacs.vthreshold_coarse.last
            lines.append(f"  {chip.attr_name}: {said.name}, threshold {coarse} (coarse) {fine} (fine)")
            general = chip.config.general
            lines.append(f"         {general.mode.last}, {general.polarity.last}; {chip.matrix.last}")
        lines.append(f"  more: {self.name}.monitor, {self.name}.chip0.dacs, {self.name}.chip0.summary()")
        return Text("\n".join(lines))

    def __repr__(self) -> str:
        state = "connected" if self.online else "line lost or closed" if self.info else "not connected yet"
        return f"SpidrBoard({self.host}:{self.port}, name={self.name!r}, chips={self.n_chips}, {state})"


def _hardware(board: SpidrBoard) -> Iterator[tuple[str, Hardware]]:
    """Every signal of the hardware, with its dotted name."""
    for walk in board.walk_signals():
        if isinstance(walk.item, Hardware):
            yield walk.dotted_name, walk.item


def _or_declare(missing: int, info: BoardInfo) -> str:
    """What else can be done about a chip that is not there: chips are counted from chip 0 on."""
    if missing:
        return f", or declare the chips before it: chips={missing}"
    if info.present:
        return (
            f". Chips are declared from chip 0 on, so chip {info.present[0]} cannot be used while chip 0 is missing: "
            "connect it as chip 0"
        )
    return ""


_CLASSES: dict[tuple[type, int], Any] = {}


def _with_chips(cls: type, chips: int) -> Any:
    """The class with its chips declared: ophyd declares components in classes, and boards differ in their number."""
    if not isinstance(chips, int) or not 1 <= chips <= MAX_CHIPS:
        raise ValueError(f"a SPIDR board has 1 to {MAX_CHIPS} chips: `chips` is how many, not {chips!r}")
    if (cls, chips) not in _CLASSES:
        components = {f"chip{i}": Cpt(Timepix3Chip, "", index=i, kind=Kind.normal) for i in range(chips)}
        body = {**components, "__module__": cls.__module__, "__doc__": cls.__doc__}
        _CLASSES[cls, chips] = type(cls.__name__, (cls,), body)
    return _CLASSES[cls, chips]


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT" or "HOST" (port 50000). Raises ValueError with the remedy."""
    host, _, port = address.partition(":")
    if not host or (port and not port.isdecimal()) or not 0 < int(port or DEFAULT_PORT) < 65_536:
        raise ValueError(f"the address of a SPIDR board is 'HOST:PORT', as in '192.168.100.10:50000', not {address!r}")
    return host, int(port or DEFAULT_PORT)
