"""Several encoders as one: what a bundle with several members looks like to heads and detectors."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ray_app.methods._ensemble import Rule, joint
from ray_app.methods.encoders import Encoder, Features, Inputs, Want

if TYPE_CHECKING:
    from ray_app.methods import Batch


class Joined(Encoder):
    """Members side by side on the same inputs: features concatenated, logits joined by a rule.

    Layers and maps are called `<member>/<layer>`. All members must preprocess alike.

    Args:
        members: Name → encoder.
        rule: How their logits become one answer.
    """

    def __init__(self, members: Mapping[str, Encoder], rule: Rule = "logits") -> None:
        super().__init__()
        if not members:
            raise ValueError("joined: no members; give at least one")
        self.rule = rule
        self.members = nn.ModuleDict(dict(members))
        self.first = next(iter(members))
        first = members[self.first]
        self.modality = first.modality
        self.dim = sum(member.dim for member in members.values())
        self.num_classes = first.num_classes
        self.preparation = first.preparation
        self.low_precision = all(member.low_precision for member in members.values())

    @property
    def column(self) -> str:
        """The batch column that the members read."""
        return cast(Encoder, self.members[self.first]).column

    def preprocess(self, batch: "Batch") -> Inputs:
        """Turn a batch into the inputs that all members take."""
        return cast(Encoder, self.members[self.first]).preprocess(batch)

    def forward(self, inputs: Inputs, want: Collection[Want] = ()) -> Features:
        """Return the members' joined features."""
        return join({name: member(inputs, want) for name, member in self.members.items()}, self.rule)

    def portable(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Not one encoder: a bundle stores each member by itself."""
        raise TypeError("joined: members are stored one by one")


def join(parts: Mapping[str, Features], rule: Rule = "logits") -> Features:
    """Join what several members made of the same inputs."""
    features = list(parts.values())
    logits: list[Tensor] = [part.logits for part in features if part.logits is not None]
    return Features(
        pooled=torch.cat([part.pooled for part in features], dim=1),
        layers={
            f"{name}/{layer}": value for name, part in parts.items() for layer, value in part.layers.items()
        },
        maps={f"{name}/{layer}": value for name, part in parts.items() for layer, value in part.maps.items()},
        tokens=features[0].tokens if len(features) == 1 else None,
        lengths=features[0].lengths if len(features) == 1 else None,
        logits=joint(logits, rule) if len(logits) == len(features) else None,
        inputs=features[0].inputs,
    )
