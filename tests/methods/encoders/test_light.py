import numpy as np
import torch

from ray_app.methods.encoders.timm import Timm


def test_the_light_part_prepares_as_the_whole_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    for options in ({"model": "test_resnet"}, {"model": "test_resnet", "channels": 1, "image_size": 16}):
        light, whole = Timm.light(**options), Timm(**options)
        assert light is not None
        given, expected = light.collate(light.prepare({"image": image})), whole.preprocess({"image": image})
        assert isinstance(given, torch.Tensor)
        assert isinstance(expected, torch.Tensor)
        assert torch.equal(given, expected)


def test_a_model_that_timm_cannot_describe_alone_has_no_light_part() -> None:
    assert Timm.light(model="nobody_knows_it") is None
