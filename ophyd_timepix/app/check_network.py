"""The network card that leads to a camera: how fast it is, and whether it takes jumbo frames."""

import fcntl
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from .check_findings import Finding, look, ok

JUMBO_MTU: Final = 9000
MBIT_PER_MHIT: Final = 64
TEN_GBIT: Final = 10_000
_SIOCGIFADDR: Final = 0x8915
_NET: Final = Path("/sys/class/net")


class Card(NamedTuple):
    """A network card."""

    name: str
    mtu: int
    mbit_s: int | None
    """None: it does not tell (virtual, or without a cable)."""

    @property
    def is_loopback(self) -> bool:
        return self.name == "lo"


def card_of(address: str) -> Card | None:
    """The card with this address; None when none has it."""
    for _, name in socket.if_nameindex():
        if address in (_address_of(name), "127.0.0.1" if name == "lo" else None):
            return Card(name, _number(name, "mtu") or 0, _number(name, "speed"))
    return None


def _address_of(name: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:  # it has none
            return None
    return socket.inet_ntoa(answer[20:24])


def _number(name: str, entry: str) -> int | None:
    try:
        number = int((_NET / name / entry).read_text())
    except (OSError, ValueError):
        return None
    return number if number > 0 else None


def judge_card(card: Card | None) -> Finding:
    """What comes over it at most."""
    if card is None:
        remedy = "run this where the card is: not in a container with a network of its own, not through a tunnel"
        return look("network", "no card has the address that the board is told to send to", remedy)
    if card.is_loopback:
        return ok("network", "loopback: a simulator on this machine")
    speed = f"{card.mbit_s / 1000:g} Gbit/s" if card.mbit_s else "speed not told"
    found = f"{card.name}, {speed}, MTU {card.mtu}"
    if card.mbit_s and card.mbit_s < TEN_GBIT:
        found += f": at most {card.mbit_s / MBIT_PER_MHIT:.0f} Mhit/s"
        return ok("network", found)
    if card.mtu < JUMBO_MTU:
        return look("network", found, f"sudo ip link set {card.name} mtu {JUMBO_MTU}")
    return ok("network", found)
