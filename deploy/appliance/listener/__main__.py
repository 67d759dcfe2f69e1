"""python -m deploy.appliance.listener -c FILE {run,health,status,retry}."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from deploy.appliance.listener import receiver
from deploy.appliance.listener.settings import ListenerSettings, load_listener_settings
from deploy.appliance.listener.spool import STATES, Spool
from deploy.appliance.listener.worker import Worker, retry
from operators.errors import UserError

logger = logging.getLogger("deploy.appliance.listener")
CLEAN_EVERY_S = 3600.0
HEARTBEAT = "heartbeat"
BEAT_S = 15.0


def serve(settings: ListenerSettings, stop: threading.Event) -> None:
    """Receive and work until told to stop; a running job is finished or waits again next time."""
    spool = Spool(settings.spool)
    interrupted = spool.recover()
    if interrupted:
        logger.warning("%d interrupted jobs wait again", interrupted)
    server = receiver.start(spool, settings)
    logger.info("%s listens on port %d", settings.ae_title, settings.port)
    worker = Worker(spool, settings)

    def beat() -> None:
        while not stop.wait(BEAT_S):
            (spool.folder / HEARTBEAT).touch()

    (spool.folder / HEARTBEAT).touch()
    threading.Thread(target=beat, daemon=True).start()
    cleaned = 0.0
    try:
        while not stop.is_set():
            now = time.time()
            if now - cleaned > CLEAN_EVERY_S:
                spool.clean(settings.keep_days, now)
                cleaned = now
            if not worker.turn(now):
                stop.wait(1.0)
    finally:
        server.shutdown()


def health(settings: ListenerSettings) -> list[str]:
    """What is wrong with the running listener; nothing if all is well."""
    spool = Spool(settings.spool)
    problems = []
    beat = spool.folder / HEARTBEAT
    if not beat.exists() or time.time() - beat.stat().st_mtime > 4 * BEAT_S:
        problems.append("the listener does not run")
    if spool.free_gb() < settings.reserve_gb:
        problems.append(f"less than {settings.reserve_gb:g} GB of disk are free")
    client = AE(ae_title=settings.callers[0] if settings.callers else settings.ae_title)
    client.add_requested_context(Verification)
    host = "127.0.0.1" if settings.bind == "0.0.0.0" else settings.bind
    association = client.associate(host, settings.port, ae_title=settings.ae_title)
    if association.is_established:
        association.send_c_echo()
        association.release()
    else:
        problems.append(f"port {settings.port} does not answer a C-ECHO")
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 for a problem, 3 for a wrong setting."""
    parser = argparse.ArgumentParser(prog="python -m deploy.appliance.listener")
    parser.add_argument("-c", "--config", type=Path, required=True, help="the settings file")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="receive and process studies")
    commands.add_parser("health", help="exit code 1 and a line for each problem")
    commands.add_parser("status", help="count the jobs, and say why some failed")
    again = commands.add_parser("retry", help="process jobs again that were set aside")
    again.add_argument("job", nargs="*", help="their names; all of them without")
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # the library's own messages quote data sets
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        settings = load_listener_settings(arguments.config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.command == "run":
        stop = threading.Event()

        def end(number: int, frame: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        serve(settings, stop)
        return 0
    if arguments.command == "health":
        problems = health(settings)
        for problem in problems:
            print(problem, file=sys.stderr)
        return 1 if problems else 0
    spool = Spool(settings.spool)
    if arguments.command == "retry":
        for name in retry(spool, arguments.job):
            print(name)
        return 0
    for state in STATES:
        jobs = list(spool.all_jobs(state))
        print(f"{state}: {len(jobs)}")
        for job in jobs:
            if job.reason:
                print(f"  {job.name}: {job.reason}")
    print(f"free disk: {spool.free_gb():.0f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
