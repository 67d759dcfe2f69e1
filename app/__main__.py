"""python -m app -i IN -o OUT [-m MODELS] [-w WORKDIR]: run the application once."""

from __future__ import annotations

import logging
import resource
import sys
import traceback
from collections.abc import Sequence

from app.arguments import Arguments, check_arguments, parse_arguments
from app.console import ProgressHandler, set_up_logging
from operators.errors import UserError

HOLOSCAN_STACK_BYTES = 32 * 1024 * 1024
logger = logging.getLogger("app")


def raise_stack_limit() -> None:
    """Give Holoscan the 32 MB of stack that it asks for, where the hard limit allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < HOLOSCAN_STACK_BYTES:
        wanted = HOLOSCAN_STACK_BYTES if hard == unlimited else min(HOLOSCAN_STACK_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


def run(arguments: Arguments) -> None:
    """Run the application on one input folder.

    The results of an earlier run are removed from the output folder first, so that after a
    failure nothing there can be taken for this run's result.

    Raises
    ------
    UserError
        If the input, the configuration or the output folder is at fault.
    """
    from operators.dicom_writer.output_folder import clear_outputs

    clear_outputs(arguments.output_folder)
    check_arguments(arguments)

    import holoscan.logger

    from app.application import MSLesionFollowUp
    from app.config import load_settings

    if not logging.getLogger("operators").isEnabledFor(logging.DEBUG):
        holoscan.logger.set_log_level(holoscan.logger.LogLevel.OFF)
    settings = load_settings(arguments.config)
    MSLesionFollowUp(arguments, settings).run()


def describe_unexpected(error: BaseException) -> str:
    """Say where an unforeseen error arose, without its message, which may quote patient data."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return (
        f"unexpected {type(error).__name__}{where}: This is a fault of the application. "
        "Run again with -l DEBUG and report the trace."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Returns
    -------
    int
        0 done; 2 the input cannot be processed; 3 configuration or model; 1 anything else.
    """
    raise_stack_limit()
    progress: ProgressHandler | None = set_up_logging(None)
    try:
        arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
        progress = set_up_logging(arguments.log_level)
        run(arguments)
    except UserError as error:
        failure, code = str(error), error.exit_code
    except Exception as error:
        logger.debug("trace", exc_info=True)
        failure, code = describe_unexpected(error), 1
    else:
        return 0
    finally:
        if progress is not None:
            progress.stop()
    print(f"error: {failure}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
