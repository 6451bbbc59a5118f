"""Everything that a session needs, wired in one call: `install(RE, [tpx], catalog="timepix")`."""

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bluesky import RunEngine

from ..devices import TimepixDetector
from ..plans import TimepixStreams
from .checks import MIN_FREE_BYTES, NotReady, check_directory, check_names
from .order import OutermostLast

logger = logging.getLogger(__name__)

Assets = Literal["stream", "datum"]

_installed: "weakref.WeakKeyDictionary[RunEngine, Installation]" = weakref.WeakKeyDictionary()


class Installation:
    """What `install` did to a RunEngine. `db` is the catalog, where there is one; `uninstall` undoes it."""

    def __init__(
        self, engine: RunEngine, detectors: tuple[TimepixDetector, ...], catalog: Any, assets: Assets = "stream"
    ) -> None:
        self.detectors = detectors
        self.catalog = catalog
        self.assets = assets
        self.db: Any = None
        self.writer: Any = None
        self.streams = TimepixStreams(detectors)
        self._engine: Callable[[], RunEngine | None] = weakref.ref(engine)
        self._tokens: list[int] = []

    def wire(self, engine: RunEngine) -> None:
        """Subscribe. Files close before the catalog hears of the end of a run."""
        callback = self._open_catalog()
        self._tokens.append(engine.subscribe(_as_callback(self._tell_paths), "start"))
        self._tokens.append(engine.subscribe(self.streams.document))
        engine.preprocessors = OutermostLast([*engine.preprocessors, self.streams])
        if callback is not None:
            self._tokens.append(engine.subscribe(callback))

    def _open_catalog(self) -> Callable[..., Any] | None:
        catalog = self.catalog
        if catalog is None:
            return None
        from ..catalog import CatalogWriter, DatumForm, check_readable, open_catalog

        if _is_callback(catalog):
            return _as_callback(DatumForm(catalog) if self.assets == "datum" else catalog)

        if isinstance(catalog, str):
            for detector in self.detectors:
                check_readable(catalog, detector.data_dir)
            self.db = open_catalog(catalog)
        else:
            self.db = catalog
        self.writer = CatalogWriter(catalog)
        return _as_callback(self.writer)

    def _tell_paths(self, _name: str, start: dict[str, Any]) -> None:
        """Path providers that want to know hear which run, of which proposal, has opened."""
        for detector in self.detectors:
            note_start = getattr(detector.paths, "note_start", None)
            if note_start is not None:
                note_start(start)

    @property
    def lag(self) -> float:
        """How far the catalog's writer is behind (s): the age of the oldest document that it has not written. 0.0 when
        nothing waits, and where there is no writer.
        """
        return float(self.writer.lag.seconds) if self.writer is not None else 0.0

    def uninstall(self) -> None:
        """Undo: no preprocessor, no subscription; the catalog's writer finishes what waits. Twice is harmless."""
        engine = self._engine()
        if engine is not None:
            for token in self._tokens:
                engine.unsubscribe(token)
            if self.streams in engine.preprocessors:
                engine.preprocessors.remove(self.streams)
            if _installed.get(engine) is self:
                del _installed[engine]
        self._tokens.clear()
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()

    def __repr__(self) -> str:
        names = ", ".join(detector.name for detector in self.detectors)
        return f"Installation([{names}], catalog={self.catalog!r})"


def install(
    engine: RunEngine,
    detectors: Sequence[TimepixDetector],
    catalog: Any = None,
    *,
    assets: Assets = "stream",
    min_free_bytes: int = MIN_FREE_BYTES,
) -> Installation:
    """Make every plan of this RunEngine record these detectors: centroid streams, ledger, catalog.

    catalog: the name of a catalog ("timepix"), a `Broker` or Tiled client, any callback `(name, document)`, or None.
    assets: how a callback is told of centroids and shots: "stream" (StreamResource, StreamDatum) or "datum" (Resource,
    Datum and events, for databroker 1, suitcases and `event_model.Filler`); a catalog of Tiled takes "stream" only.
    Checks first that names are unique, data directories can be written and have room, and the catalog may serve them;
    raises `NotReady` (or the catalog's error) with a sentence otherwise, and nothing is wired then.
    Calling it again with the same arguments changes nothing; with others it replaces what was wired before.
    """
    wanted = tuple(detectors)
    check_names(wanted)
    check_assets(assets, catalog)
    for detector in wanted:
        check_directory(detector.data_dir, min_free_bytes)
    present = _installed.get(engine)
    if present is not None:
        same_catalog = present.catalog is catalog or (isinstance(catalog, str) and present.catalog == catalog)
        if same_catalog and present.detectors == wanted and present.assets == assets:
            return present
        present.uninstall()
    installation = Installation(engine, wanted, catalog, assets)
    installation.wire(engine)
    _installed[engine] = installation
    return installation


def check_assets(assets: str, catalog: Any) -> None:
    """Raise NotReady for a form of assets that there is not, or that the catalog does not take."""
    if assets not in ("stream", "datum"):
        raise NotReady(f"assets are told of as 'stream' or as 'datum', not as {assets!r}")
    if assets == "datum" and not _is_callback(catalog):
        raise NotReady(
            f"assets='datum' is for a callback (name, document), not for the catalog {catalog!r}: Tiled takes no "
            "arrays of varying length as Datum. Leave assets out, or give a callback, as JsonlWriter(directory)"
        )


def _is_callback(catalog: Any) -> bool:
    """A Broker is callable too (it searches), so a catalog is told by what only catalogs have."""
    return callable(catalog) and not hasattr(catalog, "v2") and not hasattr(catalog, "context")


def _as_callback(function: Callable[..., Any]) -> Callable[..., Any]:
    """RunEngine keeps weak references to methods; a function of our own keeps what it calls."""
    return lambda name, doc: function(name, doc)
