"""The embedded catalog as a server: started by one command, read and written over HTTP, gone again without a trace."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ophyd_timepix.catalog import (
    CatalogError,
    CatalogProfile,
    CatalogWriter,
    centroids,
    find_profile,
    init_catalog,
    open_catalog,
)
from ophyd_timepix.catalog import profile as profile_module
from ophyd_timepix.catalog import serve as serve_module
from ophyd_timepix.catalog.profile import connect_catalog
from ophyd_timepix.catalog.serve import api_key, serve_catalog
from tests.catalog.conftest import EventFile, RunDocuments, rows

STOP_TIMEOUT_S = 30


@dataclass
class Server:
    """A running `ophyd-timepix catalog serve`."""

    process: subprocess.Popen[str]
    address: str

    @property
    def base(self) -> str:
        return self.address.split("/?")[0]

    @property
    def key(self) -> str:
        return self.address.split("api_key=")[1]


def start(name: str, profiles: Path) -> Server:
    process = subprocess.Popen(
        [sys.executable, "-m", "ophyd_timepix.app.cli", "catalog", "serve", "--name", name, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TILED_PROFILES": str(profiles)},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(f"catalog {name!r} at http://127.0.0.1:"):
        process.kill()
        raise AssertionError(f"no ready line: {line!r}; {process.communicate()[1]}")
    return Server(process, line.split(" at ")[1].strip())


@pytest.fixture(scope="module")
def server(catalog: CatalogProfile, profiles: Path) -> Iterator[Server]:
    server = start(catalog.name, profiles)
    yield server
    server.process.send_signal(signal.SIGTERM)
    _, errors = server.process.communicate(timeout=STOP_TIMEOUT_S)
    assert (server.process.returncode, errors) == (0, "")  # it ends cleanly, and has nothing to complain about


@pytest.fixture(scope="module")
def remote(server: Server) -> Any:
    """The server's catalog under a name of its own."""
    connect_catalog(server.address, "remote")
    return open_catalog("remote")


@pytest.fixture(scope="module")
def run(catalog: CatalogProfile, db: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run that was taken into the embedded catalog of this process."""
    writer = CatalogWriter(catalog.name, backup_directory=tmp_path_factory.mktemp("served"))
    event_file = EventFile(catalog.readable[0] / "served.h5")
    documents = RunDocuments(writer, {"sample": "served"})
    uid = documents.start()
    event_file.append(1000)
    documents.point(0, 1000)
    documents.register(event_file.path, 1000)
    documents.stop()
    writer.close(timeout_s=60)
    yield uid
    event_file.close()


def test_a_client_reads_the_same_run_over_http(remote: Any, run: str) -> None:
    assert [header.start["uid"] for header in remote(sample="served")] == [run]
    table = centroids(remote[run])
    for name, expected in rows(0, 1000).items():
        np.testing.assert_array_equal(table[name], expected)
    assert list(remote[run].table()["tpx_row_stop"]) == [1000]


def test_a_run_written_over_http_is_in_the_embedded_catalog(
    remote: Any, db: Any, data_dir: Path, tmp_path: Path
) -> None:
    writer = CatalogWriter("remote", backup_directory=tmp_path)
    event_file = EventFile(data_dir / "written_remotely.h5")
    documents = RunDocuments(writer)
    uid = documents.start()
    event_file.append(300)
    for stop_row in (100, 200, 300):
        documents.point(stop_row - 100, stop_row)
        documents.register(event_file.path, stop_row)
    documents.stop()
    writer.close(timeout_s=60)
    event_file.close()
    assert len(centroids(db[uid], "x", point=2)) == 100


def test_the_web_interface_is_there_and_nothing_is_read_without_the_key(server: Server) -> None:
    page = httpx.get(f"{server.base}/", params={"api_key": server.key}, follow_redirects=True)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert httpx.get(f"{server.base}/api/v1/metadata/").status_code == 401
    assert httpx.get(f"{server.base}/api/v1/metadata/", params={"api_key": server.key}).status_code == 200


def test_a_port_that_is_taken_is_told_with_the_remedy(server: Server, catalog: CatalogProfile) -> None:
    port = int(server.base.rsplit(":", 1)[1])
    with pytest.raises(CatalogError, match=rf"cannot be served at 127.0.0.1:{port}.*--port \(0 takes a free one\)"):
        serve_catalog(catalog.name, port=port)


def test_public_means_that_reading_needs_no_key(
    catalog: CatalogProfile, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiled.server import app

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(app, "build_app_from_config", asked.append)
    for public in (True, False):
        serve_module._application(catalog.name, "abc", public)
    assert [config["authentication"] for config in asked] == [
        {"single_user_api_key": "abc", "allow_anonymous_access": True},
        {"single_user_api_key": "abc", "allow_anonymous_access": False},
    ]
    assert "authentication" not in profile_module.profile_content(catalog.name)["direct"]


def test_the_key_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    key = api_key(tmp_path)
    assert api_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "api_key").stat().st_mode) == 0o600
    (tmp_path / "api_key").write_text("no key!")
    with pytest.raises(CatalogError, match="holds no key"):
        api_key(tmp_path)


def test_connecting_writes_a_profile_for_its_owner_alone(profiles: Path) -> None:
    made = connect_catalog("https://beamline:8000/?api_key=abc123", "beamline-7")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert profile_module.profile_content("beamline-7") == {"uri": "https://beamline:8000/api/v1?api_key=abc123"}
    connect_catalog("http://other:8000", "beamline-7")  # it moved
    assert profile_module.profile_content("beamline-7")["uri"] == "http://other:8000/api/v1"
    with pytest.raises(CatalogError, match="is not an embedded catalog"):
        serve_catalog("beamline-7")
    with pytest.raises(CatalogError, match="is no address of a server"):
        connect_catalog("beamline:8000", "beamline-7")
    made.path.unlink()


def test_connecting_never_replaces_a_catalog_of_this_machine(
    profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "_init_database", lambda database: database.touch())
    made = init_catalog("mine", tmp_path / "catalog")
    with pytest.raises(CatalogError, match="is a catalog of this machine"):
        connect_catalog("http://beamline:8000", "mine")
    assert find_profile("mine") == made
    made.path.unlink()
