"""Documents that wait for the catalog, and how they become fewer requests while they do.

StreamDatum documents of one column become one; events of one descriptor become a page. What became one stands where its
first document stood. Knows documents; knows no thread, no clock and no Tiled.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from event_model import pack_event_page, unpack_event_page

Document = dict[str, Any]
Owner = TypeVar("Owner")

PAGE_EVENTS: Final = 500
"""Events in one request at most."""
PAGE_BYTES: Final = 8 << 20
"""A page that holds so many bytes of arrays takes no more events: 16 images of 256 x 256 numbers."""


@dataclass
class Request(Generic[Owner]):
    """One or several documents that will be written together."""

    owner: Owner
    name: str
    doc: Document
    since: float = 0.0
    """When its first document came."""
    ticket: int = 0
    """The number that its first document came with."""
    more: list[Document] = field(default_factory=list)
    """Events that go into one page with `doc`."""
    bytes: int = 0
    """Size of its arrays."""

    @property
    def documents(self) -> int:
        """How many are in it; merged StreamDatum documents are one."""
        return 1 + len(self.more)

    @property
    def may_grow(self) -> bool:
        """Whether it gains by waiting: a page that is not full."""
        return self.takes_events and bool(_key(self.name, self.doc))

    @property
    def takes_events(self) -> bool:
        return self.name == "event" and self.documents < PAGE_EVENTS and self.bytes < PAGE_BYTES

    def packed(self) -> tuple[str, Document]:
        """Name and document to write."""
        return ("event_page", pack_event_page(self.doc, *self.more)) if self.more else (self.name, self.doc)


class WaitingRequests(Generic[Owner]):
    """First in, first out, but for what becomes part of a request that waits already. Not thread-safe."""

    def __init__(self) -> None:
        self.documents = 0
        """How many wait; merged StreamDatum documents are one."""
        self.bytes = 0
        """Size of their arrays."""
        self._requests: deque[Request[Owner]] = deque()
        self._open: dict[str, Request[Owner]] = {}
        """Requests that may still take documents, by stream resource or descriptor."""
        self._streams: dict[str, tuple[int, Any]] = {}
        """Run and stream of each descriptor, until the run ends."""

    def __bool__(self) -> bool:
        return bool(self._requests)

    def __iter__(self) -> Iterator[Request[Owner]]:
        return iter(self._requests)

    @property
    def oldest(self) -> Request[Owner] | None:
        return self._requests[0] if self._requests else None

    def add(self, owner: Owner, name: str, doc: Document, *, since: float = 0.0, ticket: int = 0) -> None:
        """Take a document. The events of a page find their places one by one."""
        for event in unpack_event_page(doc) if name == "event_page" else ():
            self._add(Request(owner, "event", event, since, ticket, bytes=_array_bytes(event)))
        if name != "event_page":
            n_bytes = _array_bytes(doc) if name == "event" else 0
            self._add(Request(owner, name, doc, since, ticket, bytes=n_bytes))

    def _add(self, request: Request[Owner]) -> None:
        key = _key(request.name, request.doc)
        before = self._open.get(key)
        self.bytes += request.bytes
        if before is not None and _joined(before, request):
            self.documents += request.name == "event"
            return
        self._follow_streams(request)
        self.documents += 1
        self._requests.append(request)
        if key:
            self._open[key] = request

    def _follow_streams(self, request: Request[Owner]) -> None:
        """When a stream's configuration changes, its events keep their order; pages of other streams may go on."""
        if request.name == "descriptor":
            stream = self._streams[request.doc["uid"]] = (id(request.owner), request.doc.get("name"))
            self._open = {
                key: r
                for key, r in self._open.items()
                if r.name != "event" or self._streams.get(r.doc["descriptor"], stream) != stream
            }
        elif request.name == "stop":
            run = id(request.owner)
            self._streams = {uid: stream for uid, stream in self._streams.items() if stream[0] != run}

    def pop(self) -> Request[Owner]:
        """The oldest request, which grows no more."""
        request = self._requests.popleft()
        key = _key(request.name, request.doc)
        if self._open.get(key) is request:
            del self._open[key]
        self.documents -= request.documents
        self.bytes -= request.bytes
        return request

    def clear(self) -> None:
        self._requests.clear()
        self._open.clear()
        self._streams.clear()
        self.documents = self.bytes = 0


def merge(first: Document, second: Document) -> Document | None:
    """One StreamDatum for both, if the rows of the second follow those of the first; else None."""
    if first["descriptor"] != second["descriptor"] or first["indices"]["stop"] != second["indices"]["start"]:
        return None
    return {
        **first,
        "indices": {"start": first["indices"]["start"], "stop": second["indices"]["stop"]},
        "seq_nums": {"start": first["seq_nums"]["start"], "stop": second["seq_nums"]["stop"]},
    }


def _joined(before: Request[Any], request: Request[Any]) -> bool:
    """Whether the request could become part of one that waits."""
    if request.name == "event":
        joins = before.takes_events
        if joins:
            before.more.append(request.doc)
            before.bytes += request.bytes
        return joins
    merged = merge(before.doc, request.doc)
    if merged is not None:
        before.doc = merged
    return merged is not None


def _array_bytes(event: Document) -> int:
    """What the arrays of an event take; lists of numbers as eight bytes a number, scalars nothing."""
    return sum(_size(value) for value in event["data"].values())


def _size(value: Any) -> int:
    if isinstance(value, list | tuple):
        return len(value) * (_size(value[0]) or 8) if value else 0
    return int(getattr(value, "nbytes", 0)) if getattr(value, "ndim", 0) else 0


def _key(name: str, doc: Document) -> str:
    """What documents must have in common to become one request; empty: this one stays by itself.

    Events that point to external data stay where they are: after the Datum documents that they need.
    """
    if name == "stream_datum":
        return str(doc["stream_resource"])
    if name == "event" and not doc.get("filled"):
        return str(doc["descriptor"])
    return ""
