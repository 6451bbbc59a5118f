"""The page of file layouts: tables of the event file and of the index from the descriptions that write them."""
# ruff: noqa: E501 - a row of a Markdown table is one line

from collections.abc import Iterable, Sequence
from typing import Final

from ..events.columns import OPTIONAL, Column
from ..files.event_file import LAYOUT_VERSION, TABLES
from ..spool.index import HEADER_BYTES, MAGIC, RECORD

HEAD: Final = """\
# File layout

What a run leaves, and where in it everything is. Made by `ophyd-timepix reference --page files -o
docs/reference/file-layout.md`; do not edit.

| file | what | when |
|---|---|---|
| `NAME.tpx3` | the recording: every word that came, in chunks as public tools read them | grows from the first word on |
| `NAME.0002.tpx3`, ... | its continuation: a recording goes on in a new file every 16 GiB (settable); each is a whole `.tpx3` | when the one before is full |
| `NAME.tpx3.idx` | its index: when which bytes came, which acquisition they belong to, and how the run was asked for | with it |
| `NAME.tpx3.aside` | datagrams that are no whole words, or of a foreign sender | at the end of the run, if there were any |
| `NAME.h5` | the event file: centroids, shots, triggers, hits on request | grows; readable from the first row on |
| `NAME.nxs` | the NeXus master: picture, spectrum, events, and all about the run; links to the tables of `NAME.h5` | when the run has closed |
| `matrices/DIGEST.npz` | a pixel matrix that was in use, once for all runs | when it is first seen |
| `NAME.h5.parts/` | finished parts of a `process` that was interrupted: `--resume` goes on with them | until NAME.h5 is there |
| `NAME.h5.unfinished` | what `ophyd-timepix recover` found and replaced | |

A plan calls its files `DATE/DETECTOR_UID8` (with a proposal `PROPOSAL/DATE/...`) below the detector's `data_dir`. The
links of the master are relative: the files of a run can be moved together. Nothing is ever overwritten. Times count in ns
from the moment when the run restarted the board's timers.
"""

EVENT_FILE: Final = f"""\
## Event file

HDF5, layout version {LAYOUT_VERSION} (attribute `layout_version` of `/entry`). While it grows, open it with
`h5py.File(path, "r", libver="latest", swmr=True)`; columns of a table may then differ in length for a moment, and the
shortest counts. `units` and `long_name` are attributes of each column.
"""

EVENT_FILE_REST: Final = """\
### Beside the tables

| path | what |
|---|---|
| `/entry/preview/image` | centroids per pixel, [row, column] |
| `/entry/preview/tof`, `tof_edges` | centroids per bin of time of flight, and the edges of the bins (ns) |
| `/entry/ledger` | JSON: the loss ledger of the run; empty until the run has closed, and so the mark of a finished file |
| `/entry/processing`, `geometry` | JSON: from words to centroids; where the chips lie in the picture |
| `/entry/run` | JSON: how the pipeline was asked, with column phases and the timer's zero as a date |
| `/entry/start_document`, `configuration` | JSON: as known when the run was opened; what `recover` needs |
| `/entry/provenance` | JSON, if `process` made the file: command, version of the program, sha256 of the parameters and of each input |

In these texts "not a number" stands as `NaN`, as Python's `json` writes and reads it. `processed_from` in the configuration says that
`ophyd-timepix process` made the file from that recording: it is not the run's own.
"""

MASTER: Final = """\
## NeXus master

Opens in scippnexus, silx and nexusformat; the default plot is the ToF spectrum.

| path | class | what |
|---|---|---|
| `/entry` | NXentry | `title`, `start_time`, `end_time` (of the last centroid or shot), `entry_identifier_uuid` (uid of the run), `program_name`; with a proposal and `sample` in the start document also `experiment_identifier` and `sample/name` |
| `/entry/instrument/timepix` | NXdetector | `data` (counts), `x_pixel_offset`, `y_pixel_offset`, `x_pixel_size`, `y_pixel_size` (m), `detector_number`, `serial_number` |
| `/entry/instrument/timepix/pixel_mask` | | 0 good, 1 no sensor there (gap between chips), 256 masked by the user |
| `/entry/instrument/timepix/timepix_events` | NXevent_data | one event per centroid, one pulse per shot; also at `/entry/timepix_events` |
| `.../event_id` | | number of the nearest pixel, as in `detector_number` |
| `.../event_time_offset` | | time of flight (microsecond, float32); NaN outside a shot |
| `.../event_time_zero` | | start of the pulse (ns); attribute `offset`: date of the timer's zero |
| `.../event_index` | | first event of the pulse |
| `.../shot`, `valid` | | row of `/entry/shots`, -1 for events outside any shot; 1: the shot is complete |
| `/entry/tof_spectrum` | NXdata | `counts` over `time_of_flight` (ns, bin centres); `time_of_flight_edges` |
| `/entry/image` | NXdata | the picture again, where viewers look |
| `/entry/centroids`, `hits`, `shots`, `triggers`, `acquisitions` | links | the tables of the event file: exact columns, for pandas |
| `/entry/start_document`, `configuration`, `ledger` | NXnote | JSON; the ledger's main numbers are attributes too |
| `/entry/process`, `provenance` | NXprocess, NXnote | if `ophyd-timepix process` made the event file: program, version, command; JSON with the sha256 of parameters and inputs |
| `/entry/settings` | NXnote | YAML: settings of camera and detector, as `ophyd-timepix config` reads them |

Events are the rows of `/entry/centroids` in their order. Rows outside any shot form pulses of their own, so that they count in the
picture and in no shot. The events are copies (8 bytes each), written while the run goes on into a file that gets its name at the end; float32
microseconds resolve 1 ns up to 10 ms, the exact times are in `/entry/centroids/tof`.
"""

INDEX: Final = f"""\
## Index of a recording

A header of {HEADER_BYTES} bytes (magic `{MAGIC.decode()}`, length of the text as a little-endian 32-bit number, JSON of the run,
zeros), then records of {RECORD.itemsize} bytes in the order of their addresses: one at least every 10 ms or 1 MiB, others at losses, at readings
of the board's counters, at beginnings and ends of acquisitions and where the recording goes on in another file. A file that was cut anywhere is
good up to its last whole record; after a power cut the recording is good up to the last record whose checksum agrees with its bytes.
"""

MEANING: Final = {
    "offset": "address of the first byte that follows the record, run-wide over all segments",
    "host_ns": "CLOCK_MONOTONIC (ns)",
    "datagrams": "good datagrams of the run before it",
    "kernel_dropped": "datagrams that the kernel dropped before it, all sockets",
    "acquisition": "number of the acquisition, 0: outside any",
    "end_counts": "end of an acquisition: the board's timer when the shutter closed (25 ns); else -1",
    "sent": "reading, beginning, end: datagrams that the board said it had sent since the run was opened; -1: unknown",
    "received_before": "reading, beginning, end: datagrams of the board that had arrived when it was asked; malformed datagrams in several places of one batch: address of the last one; else -1",
    "malformed": "datagrams before it that were no whole words",
    "unrecorded": "datagrams before it that came when disk or ring were full",
    "lost": "loss: datagrams that are missing just before `offset`",
    "chip": "loss: chip of the socket; else -1",
    "kind": "0 stretch, 1 loss in the kernel, 2 malformed datagram, 3 reading of the board's counters, "
    "4 end of an acquisition, 5 a new segment begins, 6 not recorded (disk or ring full), "
    "7 the board's counters at the beginning of an acquisition",
    "unused": "0",
    "checksum": "sum of the 64-bit words between the record before and this one, modulo 2^64",
    "sent_words": "beside `sent`: words of pixels that it had sent; -1: unknown",
    "paused": "beside `sent`: datagrams that had waited on it because its read-out was paused; -1: unknown",
}


def page() -> str:
    """The whole page."""
    parts = [HEAD, EVENT_FILE]
    names = ("centroids", "shots", "triggers", "hits", "acquisitions")
    parts += [f"### `/entry/{name}`\n\n{_columns(TABLES[name])}{_optional(name)}" for name in names]
    records = ((f"`{name}`", f"`{RECORD[name].str}`", MEANING[name]) for name in RECORD.names or ())
    parts += [EVENT_FILE_REST, MASTER, INDEX, _table(("field", "type", "meaning"), records)]
    return "\n".join(parts)


def _optional(table: str) -> str:
    rows = OPTIONAL.get(table, ())
    return f"\nOnly where the processing asks for it:\n\n{_columns(rows)}" if rows else ""


def _columns(columns: Sequence[Column]) -> str:
    rows = ((f"`{c.name}`", f"`{c.dtype}`", c.unit, c.meaning) for c in columns)
    return _table(("column", "type", "unit", "meaning"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
