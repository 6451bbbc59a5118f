"""The processing parameters as signals: recorded with every run, scannable, checked by the model when they are set."""

from pathlib import Path
from typing import Any, Final

from ophyd import Component as Cpt
from ophyd import Device, Kind

from ..config import CentroidTime, Edge, Metric, MissingTriggers, Processing
from ..config.calibration import CalibrationFile, is_pinned
from ..config.masked_pixels import checked, parse_pixels, pixels_text, read_pixels
from .signals import RunSetting, Scalar, run_setting
from .text import table

OFF: Final = 0.0
"""0 stands for none in these: documents have no other word for it."""
_NONE_IS_0: Final = ("trigger_period_ns", "tof_min_ns", "tof_max_ns", "tot_min", "tot_max")
_UNITS_SAID: Final = (" (pixels)", " (ns)", " (25 ns counts)")


def _parameter(name: str, value: Scalar, **kwargs: Any) -> Any:
    """Declare a parameter; what it means says the model."""
    return run_setting(value, meaning=_meaning(name), **kwargs)


def _meaning(name: str) -> str:
    """What the model says, without the unit, which the signal has."""
    meaning = Processing.model_fields[name].description or ""
    for unit in _UNITS_SAID:
        meaning = meaning.replace(unit, "")
    return f"{meaning}; 0: none" if name in _NONE_IS_0 else meaning


class PixelList(RunSetting):
    """Pixels as text, `chip,x,y chip,x,y`; it takes a list of tuples, and the path of a file, too."""

    def normal(self, value: Any) -> Scalar:
        """Raises ValueError for what is no list of pixels."""
        try:
            if not isinstance(value, str):
                return pixels_text(checked(tuple((int(chip), int(x), int(y)) for chip, x, y in value)))
            is_file = bool(value) and "," not in value
            return pixels_text(read_pixels(Path(value)) if is_file else checked(parse_pixels(value)))
        except (TypeError, ValueError, OSError) as error:
            raise ValueError(f"{self.name}: {error}") from None


class CalibrationPath(RunSetting):
    """A calibration file as text, `PATH#SHA256`; the digest is added when a path is set, and asked for at each run."""

    def normal(self, value: Any) -> Scalar:
        """Raises ValueError for a file that is no calibration."""
        text = str(value)
        if is_pinned(text):
            return text
        found = CalibrationFile.from_text(text)
        return "" if found is None else found.text


def _as_signal(name: str, value: Any) -> Any:
    """What stands for a parameter of the model in its signal."""
    if name == "masked_pixels":
        return pixels_text(value)
    if name == "calibration":
        return "" if value is None else CalibrationFile.model_validate(value).text
    return OFF if value is None else value


class ProcessingSettings(Device):
    """From words to centroids. Set between runs: a run is processed in one way."""

    radius_px = _parameter("radius_px", 2.0, units="pixel", limits=(0.1, 8.0))
    window_ns = _parameter("window_ns", 100.0, units="ns", limits=(0.1, 100_000.0))
    metric = _parameter("metric", str(Metric.CYLINDER), choices=tuple(map(str, Metric)))
    min_samples = _parameter("min_samples", 1, limits=(1, 1000))
    min_size = _parameter("min_size", 1, limits=(1, 65_535))
    split = _parameter("split", False)
    split_radius_px = _parameter("split_radius_px", 2.5, units="pixel", limits=(1.0, 8.0))
    split_time_ns = _parameter("split_time_ns", 15.0, units="ns", limits=(1.0, 1000.0))
    centroid_time = _parameter("centroid_time", str(CentroidTime.LARGEST), choices=tuple(map(str, CentroidTime)))
    trigger_input = _parameter("trigger_input", 1, limits=(1, 2))
    trigger_edge = _parameter("trigger_edge", str(Edge.RISING), choices=tuple(map(str, Edge)))
    trigger_period_ns = _parameter("trigger_period_ns", OFF, units="ns")
    missing_triggers = _parameter(
        "missing_triggers", str(MissingTriggers.REPORT), choices=tuple(map(str, MissingTriggers))
    )
    trigger_delay_ns = _parameter("trigger_delay_ns", 0.0, units="ns", limits=(-1e8, 1e8))
    trigger_prescale = _parameter("trigger_prescale", 1, limits=(1, 65_535))
    tof_min_ns = _parameter("tof_min_ns", OFF, units="ns")
    tof_max_ns = _parameter("tof_max_ns", OFF, units="ns")
    tot_min = _parameter("tot_min", 0, units="25 ns", limits=(0, 1023))
    tot_max = _parameter("tot_max", 0, units="25 ns", limits=(0, 1023))
    masked_pixels = Cpt(PixelList, value="", kind=Kind.config, meaning=_meaning("masked_pixels"))
    calibration = Cpt(CalibrationPath, value="", kind=Kind.config, meaning=_meaning("calibration"))
    lateness_ns = _parameter("lateness_ns", 500_000.0, units="ns", limits=(0.0, 2_000_000.0))
    hits = _parameter("hits", False)

    @property
    def model(self) -> Processing:
        """The settings as the model that the pipeline takes. Raises ValueError when they contradict each other."""
        values: dict[str, Any] = {name: getattr(self, name).get() for name in Processing.model_fields}
        for name in _NONE_IS_0:
            values[name] = None if values[name] == OFF else values[name]
        return Processing(**values)

    def adopt(self, processing: Processing) -> None:
        """Set every signal from a model."""
        for name, value in processing.model_dump(mode="json").items():
            getattr(self, name).put(_as_signal(name, value))

    def __repr__(self) -> str:
        rows = [("processing", "value", "unit", "range", "meaning")]
        signals = [getattr(self, name) for name in self.component_names]
        rows += [(signal.attr_name, signal.shown, signal.units, signal.range, signal.meaning) for signal in signals]
        return table(rows)
