"""The content of model.json (schema 1.1; 1.2 with an int8 trial), typed and checked; schema 1.0 is
read as well.

The arrays that a network was trained on are described in three steps: ``orientation`` says which
way their axes x, y and z run in the patient, ``transpose_forward`` in which order the network
takes z, y and x (nnU-Net's plan), and each network's spacing and patch are given in the network's
order. docs/model_packages.md explains every field with examples.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NETWORK_FILE = "ensemble.onnx"
SCHEMA_VERSION = "1.1"
INT8_SCHEMA_VERSION = "1.2"
"""Of a package whose int8 trial is recorded; everything else is as in 1.1."""

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
SplineOrder = Annotated[int, Field(ge=0, le=5)]
Axis = Annotated[int, Field(ge=0, le=2)]
Stage = Literal["lowres", "fullres"]
_AXIS_OF = {"L": "x", "R": "x", "A": "y", "P": "y", "I": "z", "S": "z"}
Normalisation = Literal["zscore_in_mask", "zscore", "ct", "none", "rescale_0_1"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Intensity(_Strict):
    """Intensities of the training data's foreground, as nnU-Net's fingerprint holds them."""

    mean: float
    std: PositiveFloat
    percentile_00_5: float
    percentile_99_5: float


class Channel(_Strict):
    """One input channel, in the network's order."""

    role: Annotated[str, Field(min_length=1)]
    """The series role that fills the channel: a free name, as "flair", "t2" or "t1"."""
    normalisation: Normalisation
    """nnU-Net's schemes. "zscore_in_mask": (x - mean) / standard deviation over the mask, 0 outside
    (ZScoreNormalization with ``use_mask_for_norm``; the mask is the brain with ``aligned_grid``,
    the non-zero region with ``nnunet``); "zscore": over the whole cropped image; "ct": clipped to
    the percentiles of ``intensity``, then (x - its mean) / its standard deviation; "none":
    unchanged; "rescale_0_1": (x - minimum) / range."""
    intensity: Intensity | None = None
    """Compulsory for "ct", absent otherwise."""

    @model_validator(mode="after")
    def _consistent(self) -> Channel:
        if (self.normalisation == "ct") != (self.intensity is not None):
            raise ValueError('intensity belongs to normalisation "ct", and to no other')
        return self


class Resampling(_Strict):
    """How nnU-Net resamples; spline orders, with ``order_z_…`` across thick slices."""

    order_data: SplineOrder = 3
    order_z_data: SplineOrder = 0
    order_seg: SplineOrder = 1
    order_z_seg: SplineOrder = 0
    order_probabilities: SplineOrder = 1
    order_z_probabilities: SplineOrder = 0
    force_separate_z: bool | None = None
    """Whether slices are resampled in-plane only and then across; None: where the largest spacing
    is more than ``anisotropy_threshold`` times the smallest."""
    anisotropy_threshold: PositiveFloat = 3.0
    normalise_first: bool = True
    """nnU-Net v2 normalises before it resamples, v1 (False) after."""


class Network(_Strict):
    """One ONNX file: ``image`` (n, channels, ·, ·, ·) float32 → ``output`` (n, labels, ·, ·, ·)
    float32, with a free batch size.

    In a cascade the second network's input has further channels after the images': the first
    network's segmentation, one channel per foreground label in the order of the labels' values.
    """

    file: str = NETWORK_FILE
    stage: Stage = "fullres"
    spacing_zyx_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """In the network's own axes, that is after ``transpose_forward``."""
    patch_size_zyx: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Voxels of a tile, in the network's own axes."""


class Int8Study(_Strict):
    """How the int8 networks answered one study that they were not calibrated on."""

    study: Annotated[str, Field(min_length=1)]
    """What it is, as "2D, 0.9 × 0.9 × 3.0 mm"; nothing that names a patient."""
    dice: Annotated[float, Field(ge=0, le=1)]
    """Of the lesion mask against fp32, in the brain."""
    mean_difference: Annotated[float, Field(ge=0, le=1)]
    """Mean absolute difference of the lesion probability from fp32, in the brain."""
    speed_up: PositiveFloat
    """Processor seconds of the networks in ``Int8.compared_with`` over those in int8."""


class Int8(_Strict):
    """The trial of post-training quantisation (``model_tools quantise``), passed or not."""

    files: tuple[str, ...] = ()
    """OpenVINO models (.xml, with the .bin of the same name), in the order of ``networks``; none
    where the trial was not passed."""
    passed: bool
    minimum_dice: Annotated[float, Field(ge=0, le=1)]
    """What every study has to reach."""
    minimum_speed_up: PositiveFloat
    """What all studies together have to reach."""
    speed_up: PositiveFloat
    """Over all studies."""
    compared_with: str
    """The arithmetic that "auto" takes on the processor of the trial, as "bf16"."""
    calibrated_on: str
    """Studies and tiles, as "2 studies, 16 tiles"."""
    studies: Annotated[tuple[Int8Study, ...], Field(min_length=1)]
    software: str
    """As "NNCF 3.4.0, OpenVINO 2026.4.1"."""

    @model_validator(mode="after")
    def _consistent(self) -> Int8:
        if self.passed != bool(self.files):
            raise ValueError("int8 networks belong to a trial that was passed, and to no other")
        if any(not name.endswith(".xml") for name in self.files):
            raise ValueError("int8 files are OpenVINO models (.xml)")
        reached = self.speed_up >= self.minimum_speed_up and all(
            study.dice >= self.minimum_dice for study in self.studies
        )
        if self.passed and not reached:
            raise ValueError("a trial is passed only where its measures reach its limits")
        return self


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 1.0 in the words of 1.1."""
    old = dict(content)
    geometry = {key: old.pop(key) for key in ("spacing_zyx_mm", "patch_size_zyx") if key in old}
    threshold = {"threshold": 0.5, "preprocessing": "aligned_grid"}
    return threshold | old | {"schema_version": SCHEMA_VERSION, "networks": [geometry]}


class ModelDescription(_Strict):
    """The content of model.json."""

    schema_version: Literal["1.1", "1.2"]
    name: str
    version: str
    body_site: str
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)]
    reference_role: str = ""
    """The series on whose grid the answer is given; "flair" or else the first channel, if left
    out."""
    labels: dict[str, int]
    """Label name to value, which is the output channel; "background" is 0."""
    target_labels: tuple[str, ...] = ()
    """Labels whose union is the answer ("lesion"); may be left out with one foreground label."""
    orientation: str = "LPS"
    """Directions in the patient in which the axes x, y and z of the training arrays run: one of
    L and R, A and P, I and S each, in any order. A NIfTI file stored as RAS+ is "RAS"."""
    transpose_forward: tuple[Axis, Axis, Axis] = (0, 1, 2)
    """nnU-Net's plan: the network's axes are those of (z, y, x) in this order."""
    preprocessing: Literal["aligned_grid", "nnunet"]
    """"aligned_grid": every series interpolated once, linearly, to the working grid, z-score in the
    brain. "nnunet": all series on the reference's grid, then nnU-Net's own steps."""
    resampling: Resampling | None = None
    """Compulsory with "nnunet", absent with "aligned_grid"."""
    brain_only: bool = True
    """Whether the network was trained on images that are 0 outside the body site's mask (skull
    stripped)."""
    networks: Annotated[tuple[Network, ...], Field(min_length=1, max_length=2)]
    """One, or "lowres" and then "fullres" for a cascade."""
    folds: PositiveInt
    """Members inside each network."""
    averaging: Literal["logits", "softmax"]
    """What the network's output is the mean of, over folds and mirrors."""
    mirror_axes: tuple[Axis, ...] = ()
    """Spatial axes (0 = first of the network) mirrored inside the graph; empty for none."""
    tile_step: Annotated[float, Field(gt=0, le=1)] = 0.5
    gaussian_sigma: PositiveFloat = 0.125
    """Standard deviation of a tile's importance, as a fraction of the patch."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability of the target labels from which a voxel belongs to them; None: the label with
    the largest probability counts (argmax)."""
    source: str
    licence: str
    int8: Int8 | None = None
    """The trial of int8, in schema 1.2; None where there was none."""
    files: dict[str, str]
    """File name to sha256, for every file of the package but model.json."""

    @model_validator(mode="before")
    @classmethod
    def _read_1_0(cls, content: Any) -> Any:
        if isinstance(content, dict):
            if content.get("schema_version") == "1.0":
                content = _upgraded(content)
            return _with_defaults(content)
        return content

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if not name or name.startswith(".") or set(name) & set("/\\\0"):
                raise ValueError(f"{name!r} is not the plain name of a file in the package")
        return files

    @model_validator(mode="after")
    def _consistent(self) -> ModelDescription:
        _check_roles(self)
        _check_labels(self)
        if sorted(self.transpose_forward) != [0, 1, 2]:
            raise ValueError("transpose_forward must hold 0, 1 and 2 once each")
        axes = sorted(_AXIS_OF.get(letter, "?") for letter in self.orientation)
        if axes != ["x", "y", "z"]:
            raise ValueError("orientation must hold one of L and R, of A and P, and of I and S")
        if len(set(self.mirror_axes)) != len(self.mirror_axes):
            raise ValueError("mirror_axes must be different axes")
        stages = [network.stage for network in self.networks]
        if len(stages) == 2 and stages != ["lowres", "fullres"]:
            raise ValueError('a cascade\'s networks must be "lowres" and then "fullres"')
        missing = {network.file for network in self.networks} - set(self.files)
        if missing or len({network.file for network in self.networks}) != len(self.networks):
            raise ValueError("files must list each network's own file")
        _check_preprocessing(self)
        _check_int8(self)
        return self

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Spacing of the network that gives the answer."""
        return self.networks[-1].spacing_zyx_mm

    @property
    def patch_size_zyx(self) -> tuple[int, int, int]:
        """Patch of the network that gives the answer."""
        return self.networks[-1].patch_size_zyx

    @property
    def target_values(self) -> tuple[int, ...]:
        """Output channels of ``target_labels``."""
        return tuple(self.labels[name] for name in self.target_labels)

    def input_channels(self, network: Network) -> int:
        """Channels that a network takes: the images', and in a cascade's second one the labels'."""
        extra = len(self.labels) - 1 if network != self.networks[0] else 0
        return len(self.channels) + extra


def _with_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """Fill reference_role and target_labels where they follow from the rest."""
    content = dict(content)
    channels = content.get("channels")
    if not content.get("reference_role") and isinstance(channels, (list, tuple)):
        roles = [c.role if isinstance(c, Channel) else dict(c).get("role") for c in channels]
        content["reference_role"] = "flair" if "flair" in roles else (roles or [""])[0]
    labels = content.get("labels")
    if not content.get("target_labels") and isinstance(labels, dict):
        foreground = [name for name, value in labels.items() if value != 0]
        if len(foreground) == 1:
            content["target_labels"] = foreground
    return content


def _check_roles(description: ModelDescription) -> None:
    roles = [channel.role for channel in description.channels]
    if len(set(roles)) != len(roles):
        raise ValueError("channels must hold each role once")
    if description.reference_role not in roles:
        raise ValueError("reference_role must be the role of a channel")


def _check_labels(description: ModelDescription) -> None:
    labels = description.labels
    if labels.get("background") != 0 or sorted(labels.values()) != list(range(len(labels))):
        raise ValueError("labels must be background 0 and further names 1, 2, … without a gap")
    if len(labels) < 2:
        raise ValueError("labels must hold more than the background")
    targets = description.target_labels
    if not targets or len(set(targets)) != len(targets):
        raise ValueError("target_labels must name the labels that are the answer, each once")
    if not set(targets) <= set(labels) - {"background"}:
        raise ValueError("target_labels must be names out of labels, without background")


def _check_preprocessing(description: ModelDescription) -> None:
    if (description.preprocessing == "nnunet") != (description.resampling is not None):
        raise ValueError('resampling belongs to preprocessing "nnunet", and to no other')
    if description.preprocessing == "aligned_grid" and (
        any(channel.normalisation != "zscore_in_mask" for channel in description.channels)
        or len(description.networks) != 1
        or description.orientation != "LPS"
        or description.transpose_forward != (0, 1, 2)
        or not description.brain_only
    ):
        raise ValueError(
            'preprocessing "aligned_grid" goes with normalisation "zscore_in_mask", one network, '
            "orientation LPS, transpose_forward (0, 1, 2) and brain_only"
        )


def _check_int8(description: ModelDescription) -> None:
    trial = description.int8
    if (trial is not None) != (description.schema_version == INT8_SCHEMA_VERSION):
        raise ValueError(f"int8 belongs to schema {INT8_SCHEMA_VERSION}, and to no other")
    if trial is None or not trial.files:
        return
    if len(set(trial.files)) != len(description.networks):
        raise ValueError("int8 must name one file for each network")
    needed = {*trial.files, *(name.removesuffix(".xml") + ".bin" for name in trial.files)}
    if not needed <= set(description.files):
        raise ValueError("files must list both files of each int8 network")
