"""OpenVINO on a CPU, in bf16 where the processor computes it in hardware."""

from __future__ import annotations

import logging
import os
from typing import Literal

import numpy as np
import openvino as ov

from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import NETWORK_FILE, ModelPackage

logger = logging.getLogger(__name__)

_DEVICE = "CPU"
_TYPES = {"bf16": ov.Type.bf16, "fp32": ov.Type.f32}


class OpenVinoEngine:
    """A package's network compiled for the CPU, for one patch at a time (bounded memory).

    Parameters
    ----------
    package
        The model package.
    precision
        "auto" takes bf16 if the processor has it, fp32 otherwise. Input, output and everything
        outside the network stay float32.
    threads
        Number of threads; None for every processor that this process may use.

    Raises
    ------
    ConfigurationError
        If the network cannot be read, differs from model.json, or bf16 is asked for on a
        processor without it.
    """

    def __init__(
        self,
        package: ModelPackage,
        *,
        precision: Literal["auto", "bf16", "fp32"] = "auto",
        threads: int | None = None,
    ) -> None:
        core = ov.Core()
        has_bf16 = "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise ConfigurationError(
                "lesion_segmentation.precision",
                "bf16 is asked for, and this processor does not compute bf16.",
                'Set it to "auto" or "fp32" in app.yaml.',
            )
        self._precision = ("bf16" if has_bf16 else "fp32") if precision == "auto" else precision
        self._name = f"OpenVINO {ov.__version__.split('-')[0]} ({_DEVICE})"
        self._package = package.folder.name
        description = package.description
        input_shape = (1, len(description.channels), *description.patch_size_zyx)
        output_shape = (1, len(description.labels), *description.patch_size_zyx)
        threads = threads or len(os.sched_getaffinity(0))
        try:
            model = core.read_model(package.network)
            model.reshape(list(input_shape))
            self._compiled = core.compile_model(
                model,
                _DEVICE,
                {
                    "INFERENCE_PRECISION_HINT": _TYPES[self._precision],
                    "INFERENCE_NUM_THREADS": threads,
                    "PERFORMANCE_HINT": "LATENCY",
                },
            )
        except RuntimeError as error:
            raise ConfigurationError(
                f"model package {self._package}",
                f"{NETWORK_FILE} is not a network for patches of {input_shape[1:]}.",
                "Make the package again with model_tools.",
            ) from error
        answered = tuple(self._compiled.output(0).shape)
        if len(self._compiled.outputs) != 1 or answered != output_shape:
            raise ConfigurationError(
                f"model package {self._package}",
                f"{NETWORK_FILE} answers {answered} where model.json describes {output_shape}.",
                "Make the package again with model_tools.",
            )
        self._request = self._compiled.create_infer_request()
        logger.info(
            "model %s %s on %s, %s (processor %s bf16), %d threads",
            description.name,
            description.version,
            self._name,
            self._precision,
            "with" if has_bf16 else "without",
            threads,
        )

    @property
    def name(self) -> str:
        """Engine, version and device."""
        return self._name

    @property
    def precision(self) -> str:
        """Arithmetic of the network: "bf16" or "fp32"."""
        return self._precision

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Run the network on each patch of (n, channels, z, y, x); see ``Engine.run``.

        Raises
        ------
        ConfigurationError
            If the network answers with infinities or NaN.
        """
        answers = []
        for patch in batch:
            result = self._request.infer(
                [np.ascontiguousarray(patch[None], dtype=np.float32)], share_inputs=True
            )
            answers.append(np.array(result[0][0], dtype=np.float32))
        answer = np.stack(answers)
        if not np.isfinite(answer).all():
            raise ConfigurationError(
                f"model package {self._package}",
                f"The network answers with values that are not finite in {self._precision}.",
                'Set lesion_segmentation.precision to "fp32", or replace the model package.',
            )
        return answer
