import os
from pathlib import Path
from types import SimpleNamespace

import bluesky.plans as bp
import pytest

from ophyd_timepix.devices import TimepixDetector
from ophyd_timepix.wiring import NotReady, checks, install
from tests.fakes import ROWS, FakePipeline


class Callback:
    """A catalog of somebody's own."""

    def __init__(self):
        self.names = []

    def __call__(self, name, doc):
        self.names.append(name)


def test_one_call_makes_any_plan_record_centroids(RE, checker, tpx):
    install(RE, [tpx], min_free_bytes=0)
    RE(bp.count([tpx]))
    assert checker.run.rows == ROWS


def test_installing_twice_changes_nothing(RE, checker, tpx):
    first = install(RE, [tpx], min_free_bytes=0)
    assert install(RE, [tpx], min_free_bytes=0) is first
    assert RE.preprocessors == [first.streams]
    RE(bp.count([tpx]))
    assert checker.run.rows == ROWS


def test_installing_other_detectors_replaces(RE, checker, tpx, spidr, tmp_path):
    other = TimepixDetector(spidr, name="tpx", data_dir=tmp_path, pipeline=FakePipeline, shots=100)
    install(RE, [tpx], min_free_bytes=0)
    second = install(RE, [other], min_free_bytes=0)
    assert RE.preprocessors == [second.streams]
    RE(bp.count([other]))
    assert checker.run.rows == ROWS
    other.close()


def test_uninstall_leaves_the_engine_as_it_was(RE, checker, tpx):
    callback = Callback()
    installation = install(RE, [tpx], callback, min_free_bytes=0)
    installation.uninstall()
    installation.uninstall()
    assert RE.preprocessors == []
    RE(bp.count([tpx]))
    assert checker.run.stream_names == {"primary"}
    assert callback.names == []


def test_any_callback_can_be_the_catalog(RE, tpx):
    callback = Callback()
    installation = install(RE, [tpx], callback, min_free_bytes=0)
    RE(bp.count([tpx]))
    assert callback.names[0] == "start"
    assert callback.names[-1] == "stop"
    assert "stream_datum" in callback.names
    assert installation.db is None


def test_files_are_closed_before_the_catalog_hears_of_the_end(RE, tpx, pipe):
    heard = []
    install(RE, [tpx], lambda name, doc: heard.append((name, pipe.calls[-1])), min_free_bytes=0)
    RE(bp.count([tpx]))
    assert heard[-1] == ("stop", "close_run")


def test_two_detectors_of_one_name_are_refused(RE, tpx, spidr, tmp_path):
    twin = TimepixDetector(spidr, name="tpx", data_dir=tmp_path, pipeline=FakePipeline)
    with pytest.raises(NotReady, match="two detectors are named 'tpx'"):
        install(RE, [tpx, twin])


def test_two_detectors_on_one_board_are_refused(RE, tpx, spidr, tmp_path):
    second = TimepixDetector(spidr, name="tpy", data_dir=tmp_path, pipeline=FakePipeline)
    with pytest.raises(NotReady, match="tpx and tpy share the board spidr, which sends to one of them only"):
        install(RE, [tpx, second])


def test_a_directory_that_cannot_be_made_is_refused_and_nothing_is_wired(RE, spidr, tmp_path):
    (tmp_path / "file").write_text("")
    detector = TimepixDetector(spidr, name="tpx", data_dir=tmp_path / "file" / "data", pipeline=FakePipeline)
    with pytest.raises(NotReady, match=r"file/data cannot be written.*give the detector another data_dir"):
        install(RE, [detector])
    assert RE.preprocessors == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_refused(RE, spidr, tmp_path):
    tmp_path.chmod(0o500)
    detector = TimepixDetector(spidr, name="tpx", data_dir=tmp_path, pipeline=FakePipeline)
    with pytest.raises(NotReady, match="cannot be written"):
        install(RE, [detector])


def test_a_full_directory_is_refused_with_its_room(tmp_path):
    with pytest.raises(NotReady, match=r"GB free, a run needs at least 1000000.00 GB"):
        checks.check_directory(tmp_path, min_free_bytes=10**15)


class TestWithACatalog:
    """The embedded catalog's own tests are in tests/catalog; here it is a double that does what it does."""

    @pytest.fixture(autouse=True)
    def catalog(self, monkeypatch):
        import ophyd_timepix.catalog as catalog

        made = []

        class Writer:
            def __init__(self, catalog):
                self.catalog = catalog
                self.names = []
                self.closed = False
                made.append(self)

            def __call__(self, name, doc):
                self.names.append(name)

            def close(self):
                self.closed = True

        served = []

        def check_readable(name: str, path: Path) -> None:
            if path not in served:
                raise catalog.NotReadableError(f"the catalog {name!r} may not serve files from {path}")

        monkeypatch.setattr(catalog, "CatalogWriter", Writer)
        monkeypatch.setattr(catalog, "check_readable", check_readable)
        monkeypatch.setattr(catalog, "open_catalog", lambda name: f"broker of {name}")
        self.writers, self.served, self.NotReadableError = made, served, catalog.NotReadableError

    def test_a_name_opens_the_catalog_and_its_writer(self, RE, tpx):
        self.served.append(tpx.data_dir)
        installation = install(RE, [tpx], "timepix", min_free_bytes=0)
        assert installation.db == "broker of timepix"
        assert install(RE, [tpx], "timepix", min_free_bytes=0) is installation
        RE(bp.count([tpx]))
        assert self.writers[0].names[-1] == "stop"
        installation.uninstall()
        assert self.writers[0].closed

    def test_a_directory_that_the_catalog_may_not_serve_is_refused_before_a_run(self, RE, tpx):
        with pytest.raises(self.NotReadableError, match="may not serve"):
            install(RE, [tpx], "timepix", min_free_bytes=0)
        assert RE.preprocessors == []

    def test_a_broker_is_a_catalog_although_it_can_be_called(self, RE, tpx):
        class Broker:
            v2 = None

            def __call__(self, **query):
                raise AssertionError("a search is no subscription")

        broker = Broker()
        installation = install(RE, [tpx], broker, min_free_bytes=0)
        assert installation.db is broker
        assert self.writers[0].catalog is broker
        RE(bp.count([tpx]))


def test_centroids_as_resource_and_datum_are_one_setting(RE, tpx, pipe):
    names = []
    installation = install(RE, [tpx], lambda name, _: names.append(name), assets="datum", min_free_bytes=0)
    RE(bp.count([tpx]))
    installation.uninstall()
    assert {"resource", "datum"} < set(names)
    assert not {"stream_resource", "stream_datum"} & set(names)


@pytest.mark.parametrize(
    ("assets", "catalog", "sentence"),
    [
        ("datum", "timepix", "for a callback .* not for the catalog 'timepix'"),
        ("datum", None, "for a callback"),
        ("blobs", None, "'stream' or as 'datum', not as 'blobs'"),
    ],
)
def test_a_form_that_the_catalog_does_not_take_is_refused(RE, tpx, assets, catalog, sentence):
    with pytest.raises(NotReady, match=sentence):
        install(RE, [tpx], catalog, assets=assets, min_free_bytes=0)
    assert RE.preprocessors == []


def test_the_lag_is_that_of_the_writer(RE, tpx):
    installation = install(RE, [tpx], min_free_bytes=0)
    assert installation.lag == 0.0
    installation.writer = SimpleNamespace(lag=SimpleNamespace(seconds=3.5), close=lambda: None)
    assert installation.lag == 3.5
    installation.uninstall()
    assert installation.lag == 0.0
