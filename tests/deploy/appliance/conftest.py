"""A small PACS (dcmtk's dcmqrscp) and the listener, on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from deploy.appliance.listener import receiver
from deploy.appliance.listener.settings import EarlierStudies, ListenerSettings, Node
from deploy.appliance.listener.spool import Spool
from deploy.appliance.listener.worker import RunApplication, Worker
from tests.operators.dicom_loader.builders import make_classic_series, write_files

OWN, PACS, SCANNER = "MSLESION", "PACS", "MR1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, called: str, calling: str) -> bool:
    client = AE(ae_title=calling)
    client.add_requested_context(Verification)
    association = client.associate("127.0.0.1", port, ae_title=called)
    established = bool(association.is_established)
    if established:
        association.release()
    return established


class Archive:
    """A PACS with C-STORE, C-FIND and C-MOVE that knows the listener as a move destination."""

    def __init__(self, program: str, folder: Path, listener_port: int) -> None:
        self.program, self.folder, self.listener_port = program, folder, listener_port
        self.store = folder / "store"
        self.store.mkdir(parents=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.folder / "dcmqrscp.cfg"
        config.write_text(
            f"NetworkTCPPort  = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\nlistener = ({OWN}, 127.0.0.1, {self.listener_port})\nHostTable END\n"
            "VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{PACS} {self.store} RW (200, 1024mb) ANY\nAETable END\n"
        )
        self.process = subprocess.Popen(
            [self.program, "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            if answers(self.port, PACS, OWN):
                return
            time.sleep(0.05)
        raise AssertionError("dcmqrscp does not answer")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def objects(self) -> list[Path]:
        return sorted(path for path in self.store.iterdir() if path.name != "index.dat")

    @property
    def node(self) -> Node:
        return Node(ae_title=PACS, host="127.0.0.1", port=self.port)


@dataclass
class Box:
    """The listener under test."""

    spool: Spool
    settings: ListenerSettings
    archive: Archive
    storescu: str

    def worker(self, run: RunApplication) -> Worker:
        return Worker(self.spool, self.settings, run)

    def push(self, files: list[Path], to: Archive | None = None, caller: str = SCANNER) -> int:
        port, called = (
            (to.port, PACS) if to is not None else (self.settings.port, self.settings.ae_title)
        )
        command = [self.storescu, "-aet", caller, "-aec", called, "127.0.0.1", str(port)]
        return subprocess.run(
            [*command, *map(str, files)], capture_output=True, check=False
        ).returncode


@pytest.fixture
def box(tmp_path: Path, need_tool: Callable[[str], str]) -> Iterator[Box]:
    port = free_port()
    archive = Archive(need_tool("dcmqrscp"), tmp_path / "archive", port)
    archive.start()
    settings = ListenerSettings(
        bind="127.0.0.1",
        port=port,
        callers=(SCANNER, PACS),
        spool=tmp_path / "spool",
        quiet_s=0,
        reserve_gb=0,
        retry_s=60,
        earlier_studies=EarlierStudies(query_node=archive.node),
        destinations=(archive.node,),
    )
    spool = Spool(settings.spool)
    server = receiver.start(spool, settings)
    try:
        yield Box(spool, settings, archive, need_tool("storescu"))
    finally:
        server.shutdown()
        archive.stop()


@pytest.fixture
def series(tmp_path: Path) -> Callable[..., list[Path]]:
    """Writes one small MR study of a date; the same patient unless told otherwise."""

    def make(date: str, **attributes: object) -> list[Path]:
        datasets: list[Dataset] = make_classic_series(StudyDate=date, **attributes)
        return write_files(datasets, tmp_path / f"study-{date}-{len(list(tmp_path.iterdir()))}")

    return make


def copy_result(source: Path, target: Path) -> Path:
    """Put a DICOM object where the application puts its results."""
    (target / "dicom").mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, target / "dicom" / "result.dcm"))
