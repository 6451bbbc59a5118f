"""A site's settings: a small file, the environment above it; metadata that outlive a session."""

import json
import os
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import pytest
from bluesky import RunEngine

from ophyd_timepix.wiring import NotReady, PersistentMetadata, Site

EXAMPLE = Path(__file__).parents[2] / "profiles" / "timepix" / "site.example.toml"


def test_the_environment_has_the_last_word(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('address = "camera:50000"\nchips = 4\ndata = "/data/x"\n')
    assert Site.read(file, {}) == Site("camera:50000", 4, Path("/data/x"))
    site = Site.read(
        file, {"TIMEPIX_ADDRESS": "sim", "TIMEPIX_CHIPS": "2", "TIMEPIX_DATA": "", "TIMEPIX_PROPOSAL": "p7"}
    )
    assert site == Site("sim", 2, Path("/data/x"), proposal="p7")
    assert site.simulated


def test_without_a_file_and_variables_there_are_defaults(tmp_path: Path) -> None:
    site = Site.read(tmp_path / "none.toml", {})
    assert (site.address, site.chips, site.simulated) == ("192.168.100.10:50000", 1, False)
    assert site.data == Path.home() / "timepix-data"


def test_the_example_holds_every_setting() -> None:
    site = Site.read(EXAMPLE, {})
    assert site == Site(data=Path("/data/timepix"))
    assert all(f"\n{name} = " in EXAMPLE.read_text() for name in site.__dataclass_fields__)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("addres = 'x'", r"says 'addres', which means nothing; there are address, catalog"),
        ("address = 5", "address = 5, which is not a text"),
        ("chips = 9", "1 to 4 chips, not 9"),
        ("chips = true", "1 to 4 chips, not True"),
        ("chips", "cannot be read from"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(NotReady, match=said):
        Site.read(tmp_path / "site.toml", {})


def test_metadata_outlive_the_session(tmp_path: Path) -> None:
    file = tmp_path / "new" / "metadata.json"
    RE = RunEngine(PersistentMetadata(file))
    RE.md["sample"] = "methyl iodide"
    RE.md["gone"] = [1]
    del RE.md["gone"]
    RE(bp.count([]))
    before = RE.md["scan_id"]
    starts: list[Any] = []
    again = RunEngine(PersistentMetadata(file))
    again.subscribe(lambda _, doc: starts.append(doc), "start")
    again(bp.count([]))
    assert (starts[0]["sample"], starts[0]["scan_id"]) == ("methyl iodide", before + 1)
    assert "gone" not in starts[0]
    assert file.stat().st_mode & 0o060 == 0o060
    assert os.listdir(file.parent) == ["metadata.json"]


def test_metadata_that_cannot_be_kept_are_refused_and_change_nothing(tmp_path: Path) -> None:
    md = PersistentMetadata(tmp_path / "metadata.json")
    md["a"] = 1
    with pytest.raises(TypeError, match="metadata 'b' cannot be kept"):
        md["b"] = object()
    with pytest.raises(TypeError, match="a key of metadata is a text"):
        md[1] = 2  # type: ignore[index]
    assert json.loads((tmp_path / "metadata.json").read_text()) == dict(md) == {"a": 1}


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_file_of_metadata_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(NotReady, match=r"metadata\.json"):
        PersistentMetadata(tmp_path / "metadata.json")
