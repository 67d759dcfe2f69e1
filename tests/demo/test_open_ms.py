"""The real patient: found in a folder, or downloaded from a server with checksums."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from demo import open_ms as module
from demo.open_ms import (
    Manifest,
    RemoteFile,
    download,
    find_patient,
    load_manifest,
    main,
    real_patient,
    sha256_of,
)
from demo.wrap import WrappedPatient
from operators.errors import InputError


class QuietHandler(SimpleHTTPRequestHandler):
    requested: list[str]

    def do_GET(self) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A local server: its address, its folder, and the paths that were asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    httpd.requested = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/repo", folder, httpd.requested  # type: ignore[attr-defined]
    httpd.shutdown()
    httpd.server_close()


def serve(folder: Path, path: str, content: bytes) -> RemoteFile:
    target = folder / "repo" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return RemoteFile(path, len(content), hashlib.sha256(content).hexdigest())


def test_files_are_fetched_once_and_told_about(
    server: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    url, folder, requested = server
    files = [serve(folder, f"a/{name}.bin", name.encode() * 200_000) for name in ("one", "two")]
    told: list[tuple[str, int, int]] = []
    cache = tmp_path / "cache"
    paths = download(files, cache, url, progress=lambda *step: told.append(step))
    assert [p.read_bytes() for p in paths] == [b"one" * 200_000, b"two" * 200_000]
    assert told[-1] == ("two.bin", 600_000, 600_000)
    assert len(told) > 2
    assert requested == ["/repo/a/one.bin", "/repo/a/two.bin"]

    paths[1].unlink()
    paths[0].write_bytes(b"damaged")
    download(files, cache, url)
    assert len(requested) == 4
    download(files, cache, f"{url}/")
    assert len(requested) == 4


def test_a_wrong_checksum_leaves_nothing_behind(
    server: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    url, folder, _ = server
    good = serve(folder, "x.bin", b"changed on the server")
    wrong = RemoteFile(good.path, good.size, "0" * 64)
    with pytest.raises(InputError, match="another checksum") as error:
        download([wrong], tmp_path / "cache", url)
    assert "x.bin" in error.value.subject
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_missing_file_is_named(server: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    url, _, _ = server
    with pytest.raises(InputError, match="answered 404") as error:
        download([RemoteFile("absent.bin", 1, "0" * 64)], tmp_path / "cache", url)
    assert "absent.bin" in str(error.value)
    assert "OPEN_MS_DIR" in error.value.remedy
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_no_network_is_an_actionable_error(tmp_path: Path) -> None:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = httpd.server_port
    httpd.server_close()
    with pytest.raises(InputError, match="download failed") as error:
        download([RemoteFile("x", 1, "0" * 64)], tmp_path, f"http://127.0.0.1:{port}/")
    assert "Check the network" in error.value.remedy


class StallingHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"a few bytes")
        if "stall" in self.path:
            self.server.released.wait(5)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("path", ["stall.bin", "short.bin"])
def test_a_server_that_falls_silent_or_stops_early_is_reported(path: str, tmp_path: Path) -> None:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), StallingHandler)
    httpd.released = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        with pytest.raises(InputError, match=r"download failed|another checksum"):
            download(
                [RemoteFile(path, 1000, "0" * 64)],
                tmp_path,
                f"http://127.0.0.1:{httpd.server_port}/",
                timeout_s=0.5,
            )
    finally:
        httpd.released.set()  # type: ignore[attr-defined]
        httpd.shutdown()
        httpd.server_close()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def nifti_bytes(tmp_path: Path) -> bytes:
    affine = np.diag([0.7, 0.9, 3.0, 1.0])
    array = np.random.default_rng(1).integers(0, 900, (11, 13, 6)).astype(np.uint16)
    path = tmp_path / "made.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), path)
    return path.read_bytes()


def test_a_patient_is_downloaded_and_wrapped(
    server: tuple[str, Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, folder, _ = server
    content = nifti_bytes(tmp_path)
    files = tuple(
        serve(folder, f"longitudinal/raw/patient12/study{n}_{name}.nii.gz", content)
        for n in (1, 2)
        for name in ("FLAIR", "T1W", "T2W")
    )
    manifest = Manifest(
        url, "abc", "CC-BY", "Cite me", {12: WrappedPatient("p12", "M", 19, 81)}, files
    )
    monkeypatch.setattr(module, "load_manifest", lambda: manifest)
    monkeypatch.delenv("OPEN_MS_DIR", raising=False)
    out = tmp_path / "out"
    arguments = [str(out), "--cache", str(tmp_path / "cache"), "--base-url", url]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "Cite me" in shown.out
    assert "study1_FLAIR.nii.gz" in shown.err
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in out.rglob("*.dcm")]
    assert len(headers) == 6 * 6
    assert {h.StudyDate for h in headers} == {"20150105", "20150327"}
    assert main([*arguments, "--patient", "5"]) == 2
    assert "checksums for patients 12 only" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["longitudinal/raw", "longitudinal", "raw", "."])
def test_a_patient_is_found_in_any_layout(inside: str, tmp_path: Path) -> None:
    patient = tmp_path / inside / "patient04"
    patient.mkdir(parents=True)
    for name in ("study1_T1W", "study2_FLAIR", "study2_T2W"):
        (patient / f"{name}.nii.gz").touch()
    (point,) = find_patient(tmp_path, 4)
    assert set(point.images) == {"flair", "t2"}


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder patient12"):
        find_patient(tmp_path, 12)
    (tmp_path / "patient12").mkdir()
    with pytest.raises(InputError, match="no studyN_FLAIR"):
        find_patient(tmp_path, 12)
    with pytest.raises(ValueError, match="cache"):
        real_patient(tmp_path / "out")


def test_the_manifest_fits_the_real_files(open_ms: Path) -> None:
    manifest = load_manifest()
    assert manifest.commit == "6570490"
    assert manifest.base_url.endswith("/muschellij2/open_ms_data/6570490/")
    assert len(manifest.of_patient(12)) == 6
    for file in manifest.of_patient(12):
        local = open_ms / file.path.replace("/raw/", "/")
        assert (local.stat().st_size, sha256_of(local)) == (file.size, file.sha256)


@pytest.mark.parametrize(("number", "studies", "slices"), [(4, 1, 140), (3, 2, 218)])
def test_real_patients_are_wrapped(
    number: int, studies: int, slices: int, open_ms: Path, tmp_path: Path
) -> None:
    files = real_patient(tmp_path, number, folder=open_ms)
    assert len(files) == slices
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in files]
    assert len({h.StudyInstanceUID for h in headers}) == studies
    assert all("open_ms_data, CC-BY" in h.StudyDescription for h in headers)
    if number == 3:
        assert len({h.StudyDate for h in headers}) == 2
        first = min(h.StudyDate for h in headers)
        assert {h.PatientAge for h in headers if h.StudyDate == first} == {"019Y"}
        assert {h.PatientAge for h in headers if h.StudyDate != first} == {"020Y"}
