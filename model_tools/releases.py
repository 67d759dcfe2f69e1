"""Published weights that ``fetch`` knows: where they lie and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass

BASE_URL = "https://zenodo.org/records"
FOLDS = 5


@dataclass(frozen=True)
class Release:
    """A published nnU-Net v1 ensemble.

    Attributes
    ----------
    name
        As the user calls it.
    record
        Its record at the publisher.
    title
        What it is.
    roles
        Series role of each channel, in the network's order.
    """

    name: str
    record: str
    title: str
    roles: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its files: the plan, and weights with description for each fold."""
        folds = [f"{fold}.model{end}" for fold in range(FOLDS) for end in ("", ".pkl")]
        return ("plans.pkl", *folds)

    def url(self, base_url: str, name: str) -> str:
        """Address of a file."""
        return f"{base_url.rstrip('/')}/{self.record}/files/{name}?download=1"


RELEASES = {
    release.name: release
    for release in (
        Release("aims-flair-t2-t1", "8307627", "AIMS, FLAIR + T2 + T1", ("flair", "t2", "t1")),
        Release("aims-flair-t2", "8307662", "AIMS, FLAIR + T2", ("flair", "t2")),
        Release(
            "aims-flair-t2-t1-tl",
            "8307667",
            "AIMS, FLAIR + T2 + T1, transfer-learned",
            ("flair", "t2", "t1"),
        ),
    )
}
