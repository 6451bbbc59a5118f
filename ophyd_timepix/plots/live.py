"""What the camera sees now: a small window beside the prompt, of the picture and the spectrum of the point.

It looks at signals of the detector. A subscription notes the newest array and returns; drawing happens in the thread of
the window, twice a second at most, only when there is something new, and takes at most a fifth of that thread's time.
Neither the exposure nor the pipeline's processes wait for it.
"""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from ..config.gates import Gate
from ..devices import TimepixDetector
from .pictures import Scale, image_picture, spectrum_picture

MIN_PERIOD_S: Final = 0.5
REST_PER_DRAWING: Final = 4.0
"""After a drawing there is none for so many times its duration."""
_DARKEST: Final = 0.8


class LiveView:
    """`view = LiveView(tpx).start()`, later `view.stop()`. Shows points of plans, and what `tpx.align()` sees.

    figure: to draw into, for other programs; default: a window of pyplot. scale: of colours and counts. period_s: not
    below 0.5 s. `drawings` and `skipped` count drawings, and times at which there was something new and no time.
    """

    def __init__(
        self,
        tpx: TimepixDetector,
        *,
        period_s: float = MIN_PERIOD_S,
        scale: Scale = "log",
        figure: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if period_s < MIN_PERIOD_S:
            raise ValueError(f"a live view is drawn every {MIN_PERIOD_S:g} s at most, not every {period_s:g} s")
        self.drawings = 0
        self.skipped = 0
        self.figure = figure
        self._tpx = tpx
        self._period_s = period_s
        self._scale: Scale = scale
        self._clock = clock
        self._signals = (tpx.image, tpx.tof.histogram)
        self._tokens: list[int] = []
        self._timer: Any = None
        self._news = 0
        self._shown = -1
        self._next_s = -np.inf
        self._panels: tuple[Any, ...] = ()
        self._drawn_for: object = None

    def start(self) -> Self:
        """Open the window, and look. Twice is harmless."""
        if self._tokens:
            return self
        if self.figure is None:
            pyplot = import_module("matplotlib.pyplot")
            self.figure = pyplot.figure(f"{self._tpx.name} live", figsize=(10.0, 4.2), layout="constrained")
            self.figure.show()
        self._tokens = [signal.subscribe(self._note, run=False) for signal in self._signals]
        self._timer = self.figure.canvas.new_timer(interval=int(self._period_s * 1000))
        self._timer.add_callback(self.look)
        self._timer.start()
        return self

    def stop(self) -> None:
        """Look no longer; the window stays as it is. Twice is harmless."""
        if self._timer is not None:
            self._timer.stop()
        for signal, token in zip(self._signals, self._tokens, strict=False):
            signal.unsubscribe(token)
        self._tokens.clear()

    def look(self) -> bool:
        """Draw, if there is something new and it is time. Whether it did."""
        news, now = self._news, self._clock()
        if news == self._shown:
            return False
        if now < self._next_s:
            self.skipped += 1
            return False
        self._shown = news
        self._draw(np.asarray(self._tpx.image.get()), np.asarray(self._tpx.tof.histogram.get()))
        self.drawings += 1
        ended = self._clock()
        self._next_s = now + max(self._period_s, (ended - now) * (1 + REST_PER_DRAWING))
        return True

    def _note(self, **_: Any) -> None:
        """In the thread of the exposure: no more than this."""
        self._news += 1

    def _draw(self, image: npt.NDArray[Any], histogram: npt.NDArray[Any]) -> None:
        edges = self._edges(histogram.size)
        gates = self._gates()
        wanted = (image.shape, edges.tobytes(), gates)
        if self._drawn_for != wanted:
            self._lay_out(image, histogram, edges, gates)
            self._drawn_for = wanted
        else:
            self._renew(image, histogram)
        shots, rate = self._tpx.n_shots.get(), self._tpx.hit_rate.get()
        self._panels[0].set_title(f"{int(image.sum()):,} centroids of {shots:,} shots", fontsize=10)
        self._panels[1].set_title(f"{rate:,.0f} hits/s", fontsize=10)
        self.figure.canvas.draw_idle()

    def _lay_out(
        self, image: npt.NDArray[Any], histogram: npt.NDArray[Any], edges: npt.NDArray[Any], gates: tuple[Gate, ...]
    ) -> None:
        self.figure.clear()
        left, right = self.figure.subplots(1, 2, width_ratios=(1.0, 1.3))
        image_picture(image, scale=self._scale, pitch_um=None, axes=left)
        calibration = self._tpx.mass.model
        spectrum_picture(histogram, edges, gates=gates, calibration=calibration, scale=self._scale, axes=right)
        self._panels = (left, right)

    def _renew(self, image: npt.NDArray[Any], histogram: npt.NDArray[Any]) -> None:
        left, right = self._panels
        shown = left.images[0]
        shown.set_data(image)
        shown.set_clim(_DARKEST if self._scale == "log" else 0.0, max(float(image.max(initial=0)), 2.0))
        steps = next(patch for patch in right.patches if type(patch).__name__ == "StepPatch")
        steps.set_data(histogram)
        top = max(int(histogram.max(initial=0)), 1)
        right.set_ylim(*((0.7, top * 6) if self._scale == "log" else (0.0, top * 1.25)))

    def _edges(self, n_bins: int) -> npt.NDArray[np.float64]:
        low, high = self._tpx.tof.range_ns
        return np.linspace(low, high, n_bins + 1)

    def _gates(self) -> tuple[Gate, ...]:
        """Those that count and have a window that can be drawn."""
        size = self._tpx.picture
        models = [slot.model(size.width_px, size.height_px) for slot in self._tpx.gates.on]
        return tuple(gate for gate in models if gate.mq is None or self._tpx.mass.model is not None)
