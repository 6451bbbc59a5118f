"""The trial of capture over loopback."""

import pytest

from ophyd_timepix.capture import trial
from ophyd_timepix.capture.sockets import REMEDY, WANTED_BUFFER_BYTES, Buffer
from ophyd_timepix.capture.trial import LoopbackTrial, granted_buffer, loopback_trials
from ophyd_timepix.pipeline.preview import NoRecording


def test_a_rate_that_every_machine_takes_arrives_whole() -> None:
    (only,) = loopback_trials(NoRecording, rates=(0.2e6, 0.1e6), seconds=0.2, datagram_bytes=1400)
    assert only.lost_datagrams == 0
    assert only.sent_datagrams > 0
    assert only.hits_per_s <= 0.2e6
    assert only.wanted_hits_per_s == 0.2e6


def test_rates_go_down_until_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def losing_above_20(_: object, rate: float, seconds: float, length: int) -> LoopbackTrial:
        return LoopbackTrial(rate, length, seconds, 100, 100 if rate <= 20e6 else 70, 0.5)

    monkeypatch.setattr(trial, "_trial", losing_above_20)
    assert [t.wanted_hits_per_s for t in loopback_trials(NoRecording)] == [80e6, 40e6, 20e6]


def test_a_sender_that_fails_is_an_error() -> None:
    with pytest.raises(
        OSError, match=r"the sender of datagrams failed: .* 80000 bytes cannot be sent: Message too long"
    ):
        loopback_trials(NoRecording, rates=(80e6,), seconds=0.2, datagram_bytes=80_000)


def test_the_buffer_is_what_the_kernel_grants() -> None:
    buffer = granted_buffer()
    assert 0 < buffer.granted_bytes <= WANTED_BUFFER_BYTES
    assert (buffer.warning is None) or REMEDY in buffer.warning
    assert Buffer(8 << 20, None).holds_bytes(64) < Buffer(8 << 20, None).holds_bytes(8960)
