"""Commands of the simulated board: addresses, ports and header filters of the chips' data."""

from ophyd_timepix.protocol import Command, Reply, Request
from spidr_sim.answers import Table, ack, at_most, value_of
from spidr_sim.hardware import Hardware


class NetworkCommands:
    """Addresses, ports and header filters of the chips' data."""

    def __init__(self, board: Hardware) -> None:
        self._board = board

    def table(self) -> Table:
        """Their handlers."""
        c = Command
        return {
            c.GET_HEADERFILTER: lambda r: value_of(r, self._board.networks[r.device].header_filter),
            c.SET_HEADERFILTER: self._set_header_filter,
            c.GET_IPADDR_SRC: lambda r: value_of(r, self._board.networks[r.device].source),
            c.SET_IPADDR_SRC: self._set_source,
            c.GET_IPADDR_DEST: lambda r: value_of(r, self._board.networks[r.device].destination),
            c.SET_IPADDR_DEST: self._set_destination,
            c.GET_DEVICEPORT: lambda r: value_of(r, self._board.networks[r.device].source_port),
            c.GET_SERVERPORT: lambda r: value_of(r, self._board.networks[r.device].port),
            c.SET_SERVERPORT: self._set_port,
        }

    def _set_header_filter(self, request: Request) -> Reply:
        network = self._board.networks[request.device]
        network.header_filter = request.ints[0]
        self._board.tell_filter(network)
        return ack(request)

    def _set_source(self, request: Request) -> Reply:
        self._board.networks[request.device].source = request.ints[0]
        return ack(request)

    def _set_destination(self, request: Request) -> Reply:
        network = self._board.networks[request.device]
        network.destination = request.ints[0]
        network.destination_is_set = True
        self._board.tell_destination(network)
        return ack(request)

    def _set_port(self, request: Request) -> Reply:
        network = self._board.networks[request.device]
        network.port = at_most(request.ints[0], 0xFFFF)
        self._board.tell_destination(network)
        return ack(request)
