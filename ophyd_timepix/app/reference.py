"""`ophyd-timepix reference`: pages of reference as Markdown. Every signal of board, chip and detector, with unit, range
and meaning; or the layout of the files.

The page of signals is made from the devices as they are, so it cannot say anything else than they do. No camera is
asked.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ophyd import Kind

from ..devices import SpidrBoard, TimepixDetector
from ..devices.signals import Setting
from ..protocol import Command, PulseTiming, Register
from . import file_layout

BOARD, DETECTOR = "spidr", "tpx"

HEAD: Final = f"""\
# Signals

Every signal of `SpidrBoard` (`{BOARD}`), of its chips (`{BOARD}.chip0` ... `chip3`) and of `TimepixDetector`
(`{DETECTOR}`). Made by `ophyd-timepix reference -o docs/reference/signals.md`; do not edit.

- **set**: it can be set, `{BOARD}.chip0.dacs.vfbk.set(100)` or `RE(bps.mv({BOARD}.chip0.dacs.vfbk, 100))`. A value that
  is not possible is refused before anything is sent; what was set is read back.
- **in**: `event`: in each reading of its device; `configuration`: in the descriptor of a run, recorded anew when it
  changes; `on request`: only where it is asked for.
- **source**: where the value lives, by the names of the protocol's tables: command, register, DAC or configuration
  word. (?) marks what public sources leave uncertain; the end of this page says what.

In documents the dots of a name are `_`: `{BOARD}_chip0_dacs_vfbk`. The bias and the shutter have the names of their
devices: `{BOARD}_bias`, `{BOARD}_shutter`.

A run of `{DETECTOR}` records the settings of its board in its own configuration, with shorter names: without `dacs` and
`config`, as in `{DETECTOR}_chip0_vfbk`, `{DETECTOR}_chip0_general_mode`, `{DETECTOR}_bias_setpoint`.
"""

SECTIONS: Final = (
    (
        "Bias",
        "bias",
        f"`RE(bps.mv({BOARD}.bias, 50))` ramps, and is done when the ADC reads it; `{BOARD}.bias.stop()` holds it.",
    ),
    (
        "Shutter",
        "shutter",
        f'`{BOARD}.shutter.set("open")`, `set("closed")`; `{BOARD}.shutter.start()` opens it as it is set.',
    ),
    ("Clock", "clock", ""),
    ("TDC", "tdc", ""),
    ("Monitor", "monitor", "Each is asked every `period` while somebody subscribes to it."),
    ("Chip: DACs", "chip0.dacs", ""),
    ("Chip: general configuration", "chip0.config.general", ""),
    ("Chip: PLL", "chip0.config.pll", ""),
    ("Chip: output block", "chip0.config.output_block", ""),
    (
        "Chip: pixel matrix",
        "chip0.matrix",
        f"`{BOARD}.chip0.matrix.set(PixelMatrix(...))` uploads all pixels and reads them back.",
    ),
    (
        "Chip: test pulses",
        "chip0.test_pulse",
        f"`{BOARD}.chip0.test_pulse.choose_columns([...])` chooses columns; pixels are chosen in the matrix.",
    ),
    ("Chip: others", "chip0", ""),
)
"""Title, path of the device, and what else there is to say."""


DETECTOR_SECTIONS: Final = (
    (
        "Gates",
        "gates.gate0",
        f"`gate0` ... `gate7`; `{DETECTOR}.gates.define(Gate(...), ...)` sets all. One that is off is in no document.",
    ),
    (
        "m/q",
        "mass",
        f"t = t0 + k sqrt(m/q). `RE(calibrate_mass({DETECTOR}, ...))` finds it.",
    ),
    (
        "A goal in a gate",
        "until",
        f"While `gate` names one, it goes before `shots` and `exposure`. `RE(count_until({DETECTOR}, ...))` sets it.",
    ),
    ("Statistics", "stats", "Of the point; a few times a second while it is exposed, for those who subscribe."),
    (
        "Ledger of the point",
        "ledger_now",
        "While a point is exposed what is known until then, at its end all of it: see the loss ledger. For suspenders.",
    ),
    ("Spectrum", "tof", "Settings take effect with the next run."),
)


PULSE_TIMING: Final = "SET_TPPERIODPHASE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the page there (default: print it)")
    parser.add_argument("--page", choices=("signals", "files"), default="signals", help="which (default %(default)s)")


def run(options: argparse.Namespace) -> int:
    text = file_layout.page() if options.page == "files" else page()
    if options.output is None:
        print(text, end="")
    else:
        options.output.write_text(text)
    return 0


def page() -> str:
    """The whole page."""
    board = SpidrBoard("localhost", name=BOARD)
    detector = TimepixDetector(board, name=DETECTOR)
    doubts: dict[str, str] = {}
    parts = [HEAD, f"## Board and chips: `{BOARD}`\n"]
    for title, path, text in SECTIONS:
        device = getattr(board, path)
        parts.append(f"### {title}: `{BOARD}.{path}`\n" + (f"\n{text}\n" if text else ""))
        parts.append(_table(f"{BOARD}.{path}", device, doubts))
    parts.append(f"## Detector: `{DETECTOR}`\n")
    parts.append(_table(DETECTOR, detector, doubts))
    parts.append(f"### Processing: `{DETECTOR}.processing`\n")
    parts.append(_table(f"{DETECTOR}.processing", detector.processing, doubts))
    for title, path, text in DETECTOR_SECTIONS:
        parts.append(f"### {title}: `{DETECTOR}.{path}`\n\n{text}\n")
        parts.append(_table(f"{DETECTOR}.{path}", getattr(detector, path), doubts))
    parts.append("## Uncertain\n")
    parts.append("".join(f"- `{entry}`: {doubt}\n" for entry, doubt in sorted(doubts.items())))
    return "\n".join(parts)


def _table(path: str, device: Any, doubts: dict[str, str]) -> str:
    lines = ["| signal | meaning | unit | values | set | in | source |", "|---|---|---|---|---|---|---|"]
    for signal in _signals(device):
        (key,) = signal.describe().values()
        cells = (
            f"`{path}.{signal.attr_name}`",
            signal.meaning,
            signal.units,
            getattr(signal, "range", ""),
            "yes" if _settable(signal) else "",
            _recorded(signal),
            _source(key["source"], doubts),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _signals(device: Any) -> Iterator[Any]:
    """The signals of a device itself, not those of its parts."""
    for name in device.component_names:
        item = getattr(device, name)
        if hasattr(item, "meaning"):
            yield item


def _settable(signal: Any) -> bool:
    return bool(getattr(signal, "settable", isinstance(signal, Setting)))


def _recorded(signal: Any) -> str:
    """Which documents it is in, with its device."""
    recorded = getattr(signal, "recorded", False) or signal.kind is Kind.config
    places = ["event"] * bool(signal.kind & Kind.normal) + ["configuration"] * recorded
    return ", ".join(places) or "on request"


def _source(source: str, doubts: dict[str, str]) -> str:
    """The entry of a table, marked where it is uncertain."""
    for name in source.split(":"):
        if name == PULSE_TIMING:
            doubts[name] = PulseTiming.UNCERTAIN
            return f"`{source}` (?)"
        for table in (Command, Register):
            entry = table.__members__.get(name)
            if entry is not None and entry.uncertain:
                doubts[name] = entry.uncertain
                return f"`{source}` (?)"
    return f"`{source}`"
