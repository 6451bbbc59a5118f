"""What a builder leaves to whoever takes the block: the order of its hits, and their shots.

Blocks lie one behind the other in time: each is sorted alone, in any process, with the same result.
"""

from . import cutting, order
from .block import BlockArrays


def finish_block(block: BlockArrays) -> None:
    """Sort the hits, find the shots. A block that is finished is left as it is."""
    header = block.header
    if not header.unfinished:
        return
    order.sort_keys(block.keys[: header.n_hits])
    header.unfinished = 0
    find_shots(block, header.n_hits, block.shot_tick[: header.n_triggers].copy(), header.first_trigger)


def find_shots(block: BlockArrays, n: int, triggers: cutting.Keys, first_number: int) -> None:
    """The shots of n sorted hits. There may be fewer hits in the block afterwards: as many as it has shots for."""
    header = block.header
    header.n_hits, header.n_shots, header.n_before_first_trigger = cutting.find_shots(
        block.keys,
        n,
        header.base_tick,
        triggers,
        len(triggers),
        first_number,
        block.shot_first_hit,
        block.shot_number,
        block.shot_tick,
    )
