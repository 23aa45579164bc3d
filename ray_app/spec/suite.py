"""What `datasets/suites/*.yaml` may say: which datasets play which roles in an evaluation."""

from typing import Literal

from pydantic import Field, model_validator

from ray_app.spec import Key, Spec, Transform

Role = Literal["ind", "near_ood", "far_ood", "corrupted", "attacked"]


class Entry(Spec):
    """A dataset in its role."""

    role: Role
    """ind: in-distribution, what the others are compared with. near_ood, far_ood: abnormal, of no class that
    the model knows. corrupted: in-distribution rows made worse. attacked: changed so that the model errs."""
    dataset: str
    """Path of its YAML file, or of a built dataset's folder."""
    split: str | None = None
    limit: int | None = Field(default=None, ge=1)
    """Use at most so many rows."""
    transforms: list[Transform] = []
    """Applied to the rows; a random one is drawn anew for each seed."""


class SuiteSpec(Spec):
    """An evaluation: named datasets in roles."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    datasets: dict[Key, Entry] = Field(min_length=1)
    batch_size: int = Field(default=256, ge=1)
    examples: int = Field(default=8, ge=0, le=100)
    """Pictures of each dataset's most abnormal rows in the report."""
    cache: str | None = None
    """Folder with features that builds and evaluations computed before; None: the one that RAY_APP_CACHE
    names, else none."""
    num_cpus: float = Field(default=1.0, gt=0)
    """Held by each piece of the work; its threads too."""
    num_gpus: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _one_reference(self) -> "SuiteSpec":
        reference = [name for name, entry in self.datasets.items() if entry.role == "ind"]
        if len(reference) != 1:
            raise ValueError(f"datasets: exactly one has the role `ind`, got {reference or 'none'}")
        return self

    @property
    def reference(self) -> str:
        """The name of the in-distribution dataset."""
        return next(name for name, entry in self.datasets.items() if entry.role == "ind")
