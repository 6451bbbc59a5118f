"""A SPIDR board as an ophyd device, with its chips. A root of its own: the detector uses it, but does not own it.

Nothing here touches the network before it is asked for a value: a camera that is off does not stop a profile from
loading. The verbs are those of `ophyd_timepix.control`.
"""

from collections.abc import Callable
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..control import DEFAULT_PORT, DEFAULT_TIMEOUT_S, Board, BoardInfo, ChipMissing, SpidrClient
from .chip import Timepix3Chip
from .signals import Hardware, Monitored

MAX_CHIPS = 4
OPEN, CLOSED = "open", "closed"


class Shutter(Hardware):
    """`set("open")`, `set("closed")`. The board has no read-back of a shutter: the value is the last command."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(value=CLOSED, choices=(OPEN, CLOSED), **kwargs)

    def ask(self) -> str:
        return str(self.last)

    def put(self, value: str, **kwargs: Any) -> None:
        self.check_value(value)
        if value == OPEN:
            self.root.control.open_shutter()
        else:
            self.root.control.close_shutter()
        super(Hardware, self).put(value, force=True)


class Monitor(Device):
    """What the board measures about itself."""

    chip_temperature = Cpt(Monitored, question=lambda b: b.temperatures().chip, units="degC", kind=Kind.normal)
    board_temperature = Cpt(Monitored, question=lambda b: b.temperatures().board, units="degC", kind=Kind.normal)
    fpga_temperature = Cpt(Monitored, question=lambda b: b.temperatures().fpga, units="degC", kind=Kind.normal)
    bias = Cpt(Monitored, question=lambda b: b.bias_v(), units="V", kind=Kind.normal)


class SpidrBoard(Device):
    """`SpidrBoard("192.168.100.10:50000", name="spidr", chips=1)`: board, monitors, shutter and `chip0` ... `chip3`.

    chips: how many chips are expected, from chip 0 on; `connect` says so when one of them is missing or not locked.
    control: makes the control object instead of a TCP client (for tests).
    """

    shutter = Cpt(Shutter, kind=Kind.omitted)
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
        self._make_control = control or (lambda: Board(SpidrClient(self.host, self.port, timeout_s=timeout_s)))
        self._control: Board | None = None
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

    def connect(self) -> BoardInfo:
        """Identify the board and check that each declared chip is there and its links are locked."""
        info = self.control.identify()
        missing = [index for index in range(self.n_chips) if index not in info.present]
        if missing:
            found = "; ".join(map(str, info.chips)) or "none"
            raise ChipMissing(
                f"{self.name} at {self.host}:{self.port}: chip {missing[0]} is declared (chips={self.n_chips}) and not "
                f"there, or its links are not locked; found: {found}. Check its power and cable and reset the board "
                f"({self.name}.control.reset()), or declare the chips that there are"
            )
        for chip in self.chips:
            chip.dacs.refresh()
        self.info = info
        return info

    def disconnect(self) -> None:
        """Hang up. The board serves one client at a time; the next request of this one connects again."""
        control, self._control = self._control, None
        self.info = None
        if control is not None:
            control.client.close()

    def summary(self) -> str:
        """What is connected, for a person at a prompt. Asks the board."""
        info = self.connect()
        lines = [
            f"SPIDR board {self.name} at {self.host}:{self.port}",
            f"  software {info.software_version}, firmware {info.firmware_version}",
        ]
        for chip, said in zip(self.chips, info.chips, strict=False):
            fine, coarse = chip.dacs.vthreshold_fine.last, chip.dacs.vthreshold_coarse.last
            lines.append(f"  {chip.attr_name}: {said.name}, threshold {coarse} (coarse) {fine} (fine)")
        return "\n".join(lines)

    def __repr__(self) -> str:
        state = "connected" if self.info else "not connected yet"
        return f"SpidrBoard({self.host}:{self.port}, name={self.name!r}, chips={self.n_chips}, {state})"


_CLASSES: dict[tuple[type, int], Any] = {}


def _with_chips(cls: type, chips: int) -> Any:
    """The class with its chips declared: ophyd declares components in classes, and boards differ in their number."""
    if not 1 <= chips <= MAX_CHIPS:
        raise ValueError(f"a SPIDR board has 1 to {MAX_CHIPS} chips, not {chips}")
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
