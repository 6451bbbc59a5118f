"""The loss ledger as a picture: what went through each step, and what did not."""

from collections.abc import Mapping
from typing import Any, Final

from ..pipeline.verdict import verdict
from .pictures import new_figure

STEPS: Final = {
    "sent_pixel_words": "pixel words sent by the board",
    "pixel_words": "pixel words decoded",
    "hits": "hits",
    "clustered_hits": "hits in clusters",
    "clusters": "clusters",
    "centroids": "centroids",
    "written": "rows written",
    "shots": "shots",
    "valid_shots": "valid shots",
}
LOSSES: Final = {
    "lost_datagrams": "datagrams lost",
    "kernel_dropped": "dropped by the kernel",
    "malformed_datagrams": "malformed datagrams",
    "unknown_words": "words of unknown kind",
    "rejected_late_hits": "hits too late to be ordered",
    "hits_before_first_trigger": "hits before the first trigger",
    "noise_hits": "hits that are noise",
    "small_hits": "hits in small clusters",
    "filtered_hits": "hits that a filter removed",
    "unaccounted": "unaccounted",
}
_PASSED, _LEFT, _LOST = "#1f4e79", "#b8b8b8", "#c1440e"
_BY_CHOICE: Final = {"hits_before_first_trigger", "noise_hits", "small_hits", "filtered_hits"}
"""What processing left out because it was told to: no loss."""


def ledger_picture(ledger: Mapping[str, Any], *, title: str = "Ledger", axes: Any = None) -> Any:
    """A bar for each step, and below them one for each way in which something did not get through.

    Steps without a count (a recording knows nothing of the board) are left out, and so are losses of 0 but for
    `unaccounted`. A run that was finished without its recording does not know that.
    """
    figure, axes = (axes.figure, axes) if axes is not None else new_figure((7.4, 4.4))
    rows = [(words, int(ledger[key]), _PASSED) for key, words in STEPS.items() if ledger.get(key) is not None]
    rows += [
        (words, int(ledger[key]), _LEFT if key in _BY_CHOICE else _LOST)
        for key, words in LOSSES.items()
        if ledger.get(key)
    ]
    unaccounted = ledger.get("unaccounted")
    if unaccounted == 0:
        rows.append((LOSSES["unaccounted"], 0, _LOST))
    top = max([10, *(count for _, count, _ in rows)])
    places = range(len(rows))
    axes.barh(places, [max(count, 0) for _, count, _ in rows], color=[colour for *_, colour in rows], height=0.7)
    for place, (_, count, colour) in zip(places, rows, strict=True):
        bold = "bold" if colour == _LOST and count else "normal"
        axes.text(max(count, 0.7) * 1.12, place, f"{count:,}", va="center", fontsize=8, color="0.2", weight=bold)
    axes.set_xscale("log")
    axes.set_xlim(0.7, top * 40)
    axes.set_yticks(places, [words for words, *_ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    said = verdict(ledger)
    axes.set_title(f"{title}: {said}", color="black" if said.startswith("complete") else _LOST, fontsize=9, wrap=True)
    return figure
