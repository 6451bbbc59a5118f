"""One line about a run: may its numbers be published? Made of the ledger, and stored with it."""

from collections.abc import Mapping
from typing import Any, Final

LOST: Final = {
    "kernel_dropped": "datagrams dropped by the kernel",
    "lost_on_the_way": "datagrams lost on the way",
    "malformed_datagrams": "malformed datagrams",
    "unrecorded_datagrams": "datagrams not recorded",
    "tdc_missing_edges": "trigger edges missing",
    "missing_triggers": "triggers missing",
    "double_triggers": "double triggers",
    "rejected_edges": "trigger words with impossible fields",
    "rejected_late_hits": "hits too late",
    "rejected_late_edges": "edges too late",
    "altered_words": "words altered on the way, or not with their datagram",
    "unknown_words": "words of no known kind",
    "rejected_time_jumps": "words far out of their time",
    "missing_packets": "numbered packets missing",
    "damaged_bytes": "bytes of the recording not as they were received",
    "truncated_bytes": "bytes cut off at the end of the recording",
    "missing_bytes": "bytes missing at the end of the recording",
    "missing_words": "words missing at the end of the recording",
    "unframed_words": "words outside of any datagram",
    "cut_chunks": "datagrams cut short",
}
"""What is not there. Shots that it may touch are marked."""
DOUBTED: Final = {
    "foreign_chip_words": "words of chips that were not asked for",
    "surplus_datagrams": "datagrams more than were sent: doubled, or a stranger's",
    "stray_datagrams": "datagrams that came after an acquisition had ended: late, doubled, or a stranger's",
    "irregular_edges": "edges whose counter stood still or ran backwards",
    "epoch_uncertain": "silences of which nothing tells how many turns of the counter they lasted",
    "sequential_words": "words of a sequential read-out: their times may be wrong by multiples of 409.6 µs",
    "toa_wrap_suspects": "hits so late that their time may be wrong by 409.6 µs",
    "timer_jumps": "timer words that contradict the stream",
    "skipped_bytes": "damaged bytes skipped",
}
"""What is there and may be wrong, or is missing without a trace of when."""


COMPLETE: Final = "complete"
TIME_OVER: Final = "time"


def is_complete(ledger: Mapping[str, Any]) -> bool:
    """Nothing is missing, nothing in doubt."""
    return verdict(ledger).startswith(COMPLETE)


def verdict(ledger: Mapping[str, Any]) -> str:
    """'complete: ...', 'valid shots only: ...', 'doubtful: ...' or 'do not publish: ...', with the reasons."""
    unaccounted = ledger.get("unaccounted")
    if unaccounted is None:
        return "not known: the run was finished without its recording"
    if unaccounted:
        return f"do not publish: {unaccounted:,} words, hits or datagrams are unaccounted for"
    lost, doubted = _told(ledger, LOST), _told(ledger, DOUBTED)
    if TIME_OVER in ledger.get("ended_by", ""):
        doubted.append("data still came 10 s after the shutter had closed")
    if ledger.get("loss_intervals") and not lost:
        n = ledger["loss_intervals"]
        lost.append(f"{n:,} interval{'s' if n > 1 else ''} with a loss, see /entry/losses")
    shots = _shots(ledger)
    if "sent_datagrams" in ledger and ledger["sent_datagrams"] is None:
        besides = "".join(f", {words}" for words in doubted + lost)
        return (
            f"not known: the board could not be asked how much it sent, or a recording does not tell{besides}; {shots}"
        )
    if doubted:
        return f"doubtful: {', '.join(doubted + lost)}; {shots}"
    if lost:
        return f"{_what_is_left(ledger)}: {', '.join(lost)}; {shots}"
    if "sent_datagrams" in ledger:
        return f"complete: nothing was lost; {shots}"
    return f"complete: all of the recording was read; {shots}"


def _what_is_left(ledger: Mapping[str, Any]) -> str:
    if not ledger.get("shots"):
        return "incomplete"
    return "valid shots only" if ledger.get("valid_shots") else "no valid shot"


def _told(ledger: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    return [f"{abs(ledger[name]):,} {words}" for name, words in names.items() if ledger.get(name)]


def _shots(ledger: Mapping[str, Any]) -> str:
    shots, outside = ledger.get("shots"), ledger.get("shots_outside_shutter")
    if not shots:
        return "no shots"
    valid = f"{ledger.get('valid_shots', 0):,} of {shots:,} shots are valid"
    return f"{valid}, {outside:,} not wholly inside the open shutter" if outside else valid
