"""The wire, once: tables of commands, DACs, registers and words, and a sans-io connection that speaks them.

Client, simulator, devices and documentation read these tables. This room knows no socket, no thread and no file. Its
exceptions are `LocalProtocolError` (wrong use), `RemoteProtocolError` (the peer broke the protocol) and `ValueError` (a
value that a table does not allow); anything else is a bug.
"""

from .chip_config import (
    GeneralConfig,
    Mode,
    OutputBlockConfig,
    PllConfig,
    Polarity,
    PulseTiming,
    column_phase,
)
from .chip_id import ChipId
from .commands import BY_CODE, Command, Form, Scope, TriggerMode
from .connection import (
    NEED_DATA,
    BadRequest,
    ClientConnection,
    ConnectionClosed,
    Reply,
    Request,
    ServerConnection,
    State,
)
from .dacs import DAC_BY_CODE, Dac, SenseCode, pack_dac, unpack_dac
from .errors import (
    ErrorId,
    ErrorWord,
    FlashError,
    LocalProtocolError,
    MonitorError,
    ProtocolError,
    RemoteProtocolError,
    Tpx3Error,
)
from .fields import NamedField
from .pixel_matrix import PixelMatrix
from .quantities import Quantity, Setting
from .registers import LinkStatus, Register, StartOptions

__all__ = [
    "BY_CODE",
    "DAC_BY_CODE",
    "NEED_DATA",
    "BadRequest",
    "ChipId",
    "ClientConnection",
    "Command",
    "ConnectionClosed",
    "Dac",
    "ErrorId",
    "ErrorWord",
    "FlashError",
    "Form",
    "GeneralConfig",
    "LinkStatus",
    "LocalProtocolError",
    "Mode",
    "MonitorError",
    "NamedField",
    "OutputBlockConfig",
    "PixelMatrix",
    "PllConfig",
    "Polarity",
    "ProtocolError",
    "PulseTiming",
    "Quantity",
    "Register",
    "RemoteProtocolError",
    "Reply",
    "Request",
    "Scope",
    "SenseCode",
    "ServerConnection",
    "Setting",
    "StartOptions",
    "State",
    "Tpx3Error",
    "TriggerMode",
    "column_phase",
    "pack_dac",
    "unpack_dac",
]
