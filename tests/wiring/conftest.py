"""What these tests share."""

from tests.bluesky_fixtures import RE, checker, fake_board, installed, pipe, pipelines, spidr, tpx

__all__ = ["RE", "checker", "fake_board", "installed", "pipe", "pipelines", "spidr", "tpx"]
