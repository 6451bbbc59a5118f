"""What an import costs, and what is compiled when."""

import subprocess
import sys

LIGHT = "import sys, ophyd_timepix.events.columns, ophyd_timepix.decode; sys.exit('numba' in sys.modules)"


def test_column_tables_and_counts_do_not_load_numba():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_public_names_resolve():
    import ophyd_timepix.decode as decode
    import ophyd_timepix.events as events

    for module in (decode, events):
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_warming_up_loads_every_kernel_that_a_run_uses():
    """Nothing is left to compile when hits come."""
    code = """
import ophyd_timepix.decode as decode, ophyd_timepix.events as events
decode.warm_up(); events.warm_up()
import numba, numpy as np
from ophyd_timepix.config import Calibration, Processing
from tests.rows import process
from tests.strategies import as_words, edge_word, hit_word
from tests.events.test_imports import n_signatures
before = n_signatures()
words = [hit_word(i, 0, 5, 5, 1) for i in range(100)] + [edge_word(50, 0, 1, 0x6F, 1)]
words += [hit_word(i, 0, 5, 5, 0) for i in range(100)]
for metric in ("cylinder", "ellipsoid"):
    for min_samples in (1, 3):
        processing = Processing(metric=metric, min_samples=min_samples, hits=True, tof_max_ns=1e6, tot_max=1000)
        process(as_words(words), processing, framing=decode.Framing.RAW, target_hits=7, chain_max=50, partial=True)
for shape in ((1,), (1, 256, 256)):
    chip = Calibration(time_walk_abc=np.ones((*shape, 3)), energy_abct=np.ones((*shape, 4)))
    process(as_words(words), processing, framing=decode.Framing.RAW, calibration=chip)
assert n_signatures() == before, (before, n_signatures())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def n_signatures() -> dict[str, int]:
    """Compiled variants of every kernel."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(("ophyd_timepix.decode.", "ophyd_timepix.events.")):
            for item in vars(module).values():
                if hasattr(item, "signatures"):
                    found[f"{item.__module__}.{item.__name__}"] = len(item.signatures)
    return found
