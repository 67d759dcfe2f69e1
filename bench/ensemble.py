"""The published-size ensemble against nnU-Net's own predictor: ``python -m bench.ensemble``.

Five folds of base 32, six stages, patch 128³ on one real brain at 1 mm (patient 26 of open_ms_data,
in ``OPEN_MS_DIR`` or in ``../shared/data/open_ms`` beside the checkout), imported with
``model_tools import`` and run by the application's inference, and run by nnU-Net v2's predictor on
PyTorch, with the same number of threads, one after the other. Then the shipped ensemble on the same
brain. Every run is a process of its own, so that its peak memory is its own. Prints one table and
writes bench/results.json. The folds are random but for their last layer (``published_network``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np

from bench.process import run_measured
from demo.open_ms import folder_from_environment
from operators.messages import AlignedStudy

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench" / "results.json"
SUFFIX = "N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"
ROLES = ("flair", "t2", "t1")
SPACING = (1.0, 1.0, 1.0)


def read_brain(folder: Path, small: bool = False) -> np.ndarray:
    """FLAIR, T2 and T1 of patient 26 as float32 (channels, z, y, x), axes x, y, z of LPS.

    ``small`` takes every fourth voxel, to try the benchmark out.
    """
    part = folder / "cross_sectional" / "MNI" / "patient26"
    channels = []
    for role in ROLES:
        image = nib.as_closest_canonical(nib.load(part / f"{role.upper()}_{SUFFIX}"))
        values = np.asarray(image.dataobj, dtype=np.float32)[::-1, ::-1]
        channels.append(values.transpose(2, 1, 0))
    step = 4 if small else 1
    return np.ascontiguousarray(np.stack(channels)[:, ::step, ::step, ::step])


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two masks."""
    return float(2 * np.logical_and(a, b).sum() / max(a.sum() + b.sum(), 1))


def run_nnunet(arguments: argparse.Namespace) -> dict[str, Any]:
    """nnU-Net v2's predictor, as its command line runs it but for the files it would write."""
    import torch

    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        torch.set_num_threads(arguments.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        begun = time.perf_counter()
        predictor = nnUNetPredictor(
            use_mirroring=False,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
        predictor.initialize_from_trained_model_folder(
            str(arguments.model), tuple(range(arguments.folds)), "checkpoint_final.pth"
        )
        loaded = time.perf_counter()
        image = read_brain(arguments.data, arguments.small)
        read = time.perf_counter()
        segmentation, probabilities = predictor.predict_single_npy_array(
            image, {"spacing": list(SPACING)}, None, None, True
        )
        done = time.perf_counter()
    np.savez(arguments.out, segmentation=segmentation, probability=probabilities[1])
    return {
        "engine": f"PyTorch {torch.__version__} ({device.type})",
        "precision": "mixed" if device.type == "cuda" else "fp32",
        "load_s": loaded - begun,
        "read_s": read - loaded,
        "predict_s": done - read,
        "total_s": done - loaded,
    }


def run_package(arguments: argparse.Namespace) -> dict[str, Any]:
    """The application's inference on a package with nnU-Net's preprocessing."""
    from operators.lesion_segmentation.engine import open_engine
    from operators.lesion_segmentation.model_package import load_model_package
    from operators.lesion_segmentation.nnunet import non_zero_region, predict
    from operators.lesion_segmentation.settings import LesionSegmentationSettings
    from operators.lesion_segmentation.tiling import tile_sum_of

    package = load_model_package(arguments.model)
    settings = LesionSegmentationSettings.model_validate(
        {"precision": arguments.precision, "threads": arguments.threads}
    )
    begun = time.perf_counter()
    engine = open_engine(package, settings)
    tiles = tile_sum_of(engine, len(package.description.labels))
    loaded = time.perf_counter()
    image = read_brain(arguments.data, arguments.small)
    read = time.perf_counter()
    answer = predict(
        image, SPACING, package.description, lambda network: tiles, non_zero_region(image)
    )
    segmentation = answer.probabilities.argmax(axis=0)
    done = time.perf_counter()
    np.savez(arguments.out, segmentation=segmentation, probability=answer.probabilities[1])
    return {
        "engine": engine.name,
        "precision": engine.precision,
        "load_s": loaded - begun,
        "read_s": read - loaded,
        "resample_s": answer.seconds["resample"],
        "network_s": answer.seconds["network"],
        "return_s": answer.seconds["return"],
        "total_s": done - loaded,
    }


def aligned_study(image: np.ndarray, mask: np.ndarray) -> AlignedStudy:
    """The brain as the application's stages before the segmentation hand it over."""
    from model_tools.quantise.studies import aligned_as_given

    def volume(values: np.ndarray) -> hd.Volume:
        return hd.Volume(
            np.ascontiguousarray(values.transpose(2, 1, 0)),
            affine=np.eye(4),
            coordinate_system="PATIENT",
        )

    return aligned_as_given(
        {role: volume(values) for role, values in zip(ROLES, image, strict=True)}, volume(mask)
    )


def run_shipped(arguments: argparse.Namespace) -> dict[str, Any]:
    """A shipped package on the same brain, as the application's stage runs it."""
    from operators.lesion_segmentation.engine import open_engine
    from operators.lesion_segmentation.model_package import load_model_package
    from operators.lesion_segmentation.nnunet import non_zero_region
    from operators.lesion_segmentation.segmentation import segment_study
    from operators.lesion_segmentation.settings import LesionSegmentationSettings

    package = load_model_package(arguments.model)
    settings = LesionSegmentationSettings.model_validate(
        {"precision": arguments.precision, "threads": arguments.threads}
    )
    begun = time.perf_counter()
    engine = open_engine(package, settings)
    loaded = time.perf_counter()
    image = read_brain(arguments.data, arguments.small)
    read = time.perf_counter()
    study = aligned_study(image, non_zero_region(image))
    result, _ = segment_study(study, package, lambda *_: engine, settings)
    done = time.perf_counter()
    np.savez(arguments.out, probability=result.probability.array)
    return {
        "engine": engine.name,
        "precision": engine.precision,
        "load_s": loaded - begun,
        "read_s": read - loaded,
        "total_s": done - loaded,
    }


WORKERS = {"nnunet": run_nnunet, "package": run_package, "shipped": run_shipped}


def in_a_process(
    what: str, model: Path, out: Path, options: argparse.Namespace, **more: Any
) -> Any:
    """Run a worker in a process of its own and add its peak memory."""
    command = [sys.executable, "-m", "bench.ensemble", "--worker", what]
    command += ["--model", str(model), "--out", str(out), "--data", str(options.data)]
    command += ["--threads", str(options.threads)]
    command += ["--small"] * options.small
    for name, value in more.items():
        command += [f"--{name}", str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryFile("w+") as stream:
        took = run_measured(command, cwd=ROOT, env=environment, stdout=stream)
        if took.code:
            raise RuntimeError(f"{' '.join(command)} ended with exit code {took.code}")
        stream.seek(0)
        result: dict[str, Any] = json.loads(stream.read().splitlines()[-1])
    result["peak_mb"] = round(took.peak_mb)
    result["cpu_s"] = took.cpu_s
    return result


def compare(out: Path, reference: Path, brain: np.ndarray) -> dict[str, float]:
    """Dice in the brain, and mean difference in probability, of two runs."""
    a, b = np.load(out), np.load(reference)
    return {
        "dice": dice(a["segmentation"][brain] > 0, b["segmentation"][brain] > 0),
        "mean_difference": float(np.abs(a["probability"] - b["probability"])[brain].mean()),
        "foreground_share": float((b["segmentation"][brain] > 0).mean()),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every run, one after the other."""
    from bench.published_network import write_result_folder
    from model_tools.importing.options import ImportOptions
    from model_tools.importing.package import import_package
    from model_tools.importing.trained import Choice
    from operators.lesion_segmentation.model_description import Channel
    from operators.lesion_segmentation.nnunet import bounding_box, non_zero_region, normalise

    image = read_brain(options.data, options.small)
    brain = non_zero_region(image)
    box = bounding_box(brain)
    channel = Channel(role="any", normalisation="zscore_in_mask")
    normalised = np.stack([normalise(c[box], channel, brain[box]) for c in image])
    size: dict[str, Any] = {}
    if options.small:
        size = {"patch": (32, 32, 32), "features": (4, 8, 8)}
    trained = write_result_folder(folder, normalised, options.folds, **size)
    results: dict[str, Any] = {}
    packages = {}
    for count in range(1, options.folds + 1):
        begun = time.perf_counter()
        choice = Choice(folds=tuple(str(fold) for fold in range(count)))
        packages[count] = folder / f"folds_{count}"
        import_package(trained, packages[count], ImportOptions(choice=choice))
        results.setdefault("import_s", {})[str(count)] = time.perf_counter() - begun
    reference = folder / "nnunet.npz"
    results["nnunet"] = in_a_process("nnunet", trained, reference, options, folds=options.folds)
    runs = {}
    for count, package in packages.items():
        out = folder / f"{count}.npz"
        runs[str(count)] = in_a_process("package", package, out, options, precision="auto")
    runs[str(options.folds)] |= compare(out, reference, brain)
    results["package"] = runs
    exact = folder / "fp32.npz"
    results["package_fp32"] = in_a_process(
        "package", packages[options.folds], exact, options, precision="fp32"
    ) | compare(exact, reference, brain)
    results["speed_up"] = results["nnunet"]["total_s"] / runs[str(options.folds)]["total_s"]
    results["shipped"] = {}
    for package in sorted((ROOT / "models").glob("*/model.json")):
        out = folder / "shipped.npz"
        results["shipped"][package.parent.name] = in_a_process(
            "shipped", package.parent, out, options, precision="auto"
        )
    return results


def goals(results: dict[str, Any]) -> list[tuple[str, bool]]:
    """What the measurement is held to, and whether it was reached.

    Parameters
    ----------
    results
        As ``measure`` returns them.
    """
    best, exact = list(results["package"].values())[-1], results["package_fp32"]
    slowest = max(run["total_s"] for run in results["shipped"].values())
    return [
        ("at least 3 times faster than nnU-Net", results["speed_up"] >= 3),
        ("fp32: Dice at least 0.999", exact["dice"] >= 0.999),
        ("fp32: mean difference at most 1e-3", exact["mean_difference"] <= 1e-3),
        (f"{best['precision']}: Dice at least 0.995", best["dice"] >= 0.995),
        ("shipped ensembles: at most 30 s for the brain", slowest <= 30),
    ]


def table(results: dict[str, Any], folds: int) -> str:
    """The results as text."""
    columns = ("read", "resample", "network", "return", "total", "load")
    lines = [f"{'seconds':<34}" + "".join(f"{c:>10}" for c in columns) + f"{'peak MB':>10}"]

    def row(name: str, run: dict[str, Any]) -> None:
        cells = [run.get(f"{c}_s") for c in columns]
        text = "".join(f"{'' if c is None else f'{c:.2f}':>10}" for c in cells)
        lines.append(f"{name:<34}{text}{run['peak_mb']:>10}")

    row(f"nnU-Net v2, {folds} folds", results["nnunet"])
    for count, run in results["package"].items():
        row(f"package, {count} fold(s), {run['precision']}", run)
    row(f"package, {folds} folds, fp32", results["package_fp32"])
    for name, run in results["shipped"].items():
        row(f"shipped {name}, {run['precision']}", run)
    best, exact = results["package"][str(folds)], results["package_fp32"]
    lines += [
        f"engine: {best['engine']} against {results['nnunet']['engine']}",
        f"speed-up, {folds} folds, {best['precision']}: {results['speed_up']:.2f}"
        f" (Dice {best['dice']:.4f}, mean difference {best['mean_difference']:.1e})",
        f"speed-up, {folds} folds, fp32: {results['nnunet']['total_s'] / exact['total_s']:.2f}"
        f" (Dice {exact['dice']:.4f}, mean difference {exact['mean_difference']:.1e})",
        *(f"{'reached' if reached else 'MISSED'}: {what}" for what, reached in goals(results)),
    ]
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--small", action="store_true", help="a small network and image, to try it out"
    )
    parser.add_argument(
        "--result", type=Path, help="file for the results; default bench/results.json"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=folder_from_environment() or ROOT.parent / "shared" / "data" / "open_ms",
    )
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="auto", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options)))
        return 0
    if not options.data.is_dir():
        print("open_ms_data is missing; set OPEN_MS_DIR to its folder.", file=sys.stderr)
        return 1
    logging.basicConfig(level=logging.WARNING)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        results = measure(options, Path(scratch))
    results |= {
        "goals": dict(goals(results)),
        "threads": options.threads,
        "folds": options.folds,
        "processor": platform.processor() or platform.machine(),
        "load_average_before": load_before,
        "small": options.small,
    }
    print(table(results, options.folds))
    result = options.result or (None if options.small else RESULT)
    if result is not None:
        result.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
