import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from contract import ModelContract, trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import zoo
from zoo.layers.schedules import schedule_value
from zoo.layers.soft_argmax import spatial_softmax
from zoo.models import ASTSeg, BackgroundAE, ObjectModel
from zoo.models.ast_seg import ObjectEncoder
from zoo.sharing.weights import CheckpointError

BACKGROUND = {"form": "simple", "code_dim": 4, "width": 0.1}
SMALL = {
    "channels": 1,
    "image_size": 64,
    "num_slots": 3,
    "what_dim": 8,
    "backbone": "unet",
    "unet_channels": [8, 16, 16, 32],
    "encoder_layers": 1,
    "encoder_dim": 16,
    "encoder_heads": 2,
    "encoder_hidden": 16,
    "glimpse_size": 16,
    **{f"background_{name}": value for name, value in BACKGROUND.items()},
    "background_activation": 2.0,
    "term_weights": {"entropy": 0.01},
    "lr": 1e-3,
}


def save_background(folder: Path, **settings) -> str:
    torch.manual_seed(2)
    return str(zoo.save(BackgroundAE(**{"channels": 1, "image_size": 64, **BACKGROUND, **settings}), folder / "behind"))


def parameters(model: ObjectModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


class ASTSegContract(ModelContract):
    model_class = ASTSeg
    settings = SMALL
    sizes = ((64, 64),)

    def test_generate_draws_scenes_and_repeats_them_from_a_seed(self, model) -> None:
        assert not hasattr(model, "generate")  # a model without a prior


class TestASTSeg(ASTSegContract):
    """Baseline training: all from the start."""


class TestFrozenASTSeg(ASTSegContract):
    """Resumed in phase 2, whose cached backgrounds and end in phase 3 have to come out alike."""

    @pytest.fixture(autouse=True)
    def behind(self, tmp_path: Path) -> None:
        background = save_background(tmp_path)
        self.settings = {**SMALL, "background": background, "frozen_steps": 7, "encoder_layers": 0, "isotropic": True}

    def test_losses_are_finite_scalars_that_reach_every_parameter(self, model, uci_data) -> None:
        batch = next(iter(uci_data(image_size=64).train_dataloader()))
        sum(model.train().losses(batch).values()).backward()
        for name, p in model.named_parameters():
            assert (p.grad is None) == name.startswith("background."), name


class TestSegformerASTSeg(ASTSegContract):
    settings = {
        **SMALL,
        "channels": 3,
        "backbone": "segformer",
        "segformer": "nvidia/mit-b0",
        "pretrained": False,
    }
    test_a_resumed_run_equals_the_uninterrupted_one = None  # twenty seconds for what the other two say

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("transformers")


@pytest.mark.parametrize(("size", "texels"), [(64, 32), (128, 64)])
def test_glimpses_have_half_of_the_images_side(size: int, texels: int) -> None:
    """Table 7."""
    model = ASTSeg(**{**SMALL, "image_size": size, "glimpse_size": None})
    assert model.glimpses(torch.randn(1, 3, 8))[1].shape == (1, 3, texels, texels)


def test_defaults_are_the_papers() -> None:
    pytest.importorskip("transformers")
    with torch.device("meta"):
        model = ASTSeg()
    hp = model.hp
    # table 6
    assert (hp.num_slots, hp.what_dim, hp.scale_bounds, hp.background_activation) == (10, 32, (1.3, 24.0), 11.0)
    assert (hp.encoder_layers, hp.encoder_dim, hp.encoder_heads, hp.encoder_hidden) == (6, 256, 8, 512)
    rates = {0: 0, 2500: 1e-5, 5000: 4e-5, 112499: 4e-5, 112500: 4e-6}
    assert [schedule_value(hp.lr, step) for step in rates] == pytest.approx(list(rates.values()))
    weights = {0: 0, 5000: 2.5e-3, 10000: 1e-2, 99999: 1e-2}
    assert model.term_weights.keys() == {"entropy"}
    assert [schedule_value(model.term_weights["entropy"], step) for step in weights] == pytest.approx(
        list(weights.values())
    )
    (group,) = ASTSeg(**SMALL).configure_optimizers()["optimizer"].param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.98), 1e-9, 0)
    assert {m.p for m in model.encoder.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
    # the authors' program: 3.16 M, 47.26 M and 0.191 M
    counts = [
        sum(p.numel() for p in part.parameters()) / 1e6
        for part in (model.encoder.encoder, model.features, model.glimpses)
    ]
    assert counts == pytest.approx([3.16, 47.26, 0.191], rel=3e-3)


def test_reconstruction_is_the_squared_l1_error_of_what_is_drawn() -> None:
    torch.manual_seed(0)
    model = ASTSeg(**SMALL).eval()
    image = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        expected = (model(image).reconstruction - image).abs().sum(1).square().mean()
        torch.testing.assert_close(model.losses({"image": image})["reconstruction"], expected)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    model = ASTSeg(**{**SMALL, "term_weights": {"entropy": 2.0}})
    terms = model.losses({"image": torch.rand(2, 1, 64, 64)})
    factors = {"reconstruction": 1.0, "entropy": 2.0}
    assert terms.keys() == factors.keys()
    torch.testing.assert_close(model._total(terms), sum(factors[name] * value for name, value in terms.items()))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_two_processes_train_through_both_phases(tmp_path, uci_data) -> None:
    """In phase 2 no gradient reaches the background, which processes would wait for."""
    model = ASTSeg(**{**SMALL, "background": save_background(tmp_path), "frozen_steps": 2})
    start = zoo.load(tmp_path / "behind.safetensors").net.state_dict()
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    options = {"max_steps": 4, "devices": 2, "strategy": "ddp_fork", "limit_val_batches": 0, "callbacks": [saver]}
    trainer(tmp_path, **options).fit(model, uci_data(image_size=64, batch_size=2))
    for step, moved in ((2, False), (4, True)):
        state = zoo.load(tmp_path / f"step={step}.ckpt").background.state_dict()
        for name, value in state.items():
            assert torch.equal(value, start[name]) != moved, (step, name)


@pytest.mark.parametrize("isotropic", [False, True])
def test_places_and_scales_stay_in_bounds(isotropic: bool) -> None:
    torch.manual_seed(0)
    model = ASTSeg(**{**SMALL, "isotropic": isotropic, "encoder_layers": 0}).eval()
    maps = 1e3 * torch.randn(50, 3 + (2 if isotropic else 3) + 8, 16, 24)
    model.features.forward = lambda image: maps
    with torch.no_grad():
        boxes = model.infer(*torch.rand(2, 50, 1, 64, 96))["boxes"]
    center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    image = torch.tensor([96.0, 64.0])
    assert (center >= 0).all()
    assert (center <= image).all()
    scale = image / size
    assert scale.min() == pytest.approx(1.3, rel=1e-3)
    assert scale.max() == pytest.approx(24, rel=1e-3)
    assert ((scale[..., 0] - scale[..., 1]).abs().max() < 1e-3) == isotropic


def test_a_moved_map_moves_the_box_by_as_much() -> None:
    """Localisation is equivariant: a shift of the feature map by cells shifts boxes by a cell's share of the image."""
    torch.manual_seed(0)
    model = ASTSeg(**{**SMALL, "encoder_layers": 0}).eval()
    maps = torch.zeros(1, 3 + 3 + 8, 16, 16)
    maps[:, :3] = -1e4
    maps[:, :, 4:8, 5:9] = torch.randn(1, 14, 4, 4)
    boxes = []
    for shift in (0, 3):
        model.features.forward = lambda image, shift=shift: torch.roll(maps, (shift, shift), (2, 3))
        with torch.no_grad():
            boxes.append(model.infer(*torch.rand(2, 1, 1, 64, 64))["boxes"])
    torch.testing.assert_close(boxes[1] - boxes[0], torch.full((1, 3, 4), 3 * 64 / 15), rtol=0, atol=1e-3)


def test_batches_of_one_step_have_noise_of_their_own(tmp_path, uci_data, monkeypatch) -> None:
    model, drawn, losses = ASTSeg(**SMALL), [], ASTSeg.losses

    def watched(self, batch):
        drawn.append(torch.rand(1).item())
        return losses(self, batch)

    monkeypatch.setattr(ASTSeg, "losses", watched)
    options = {"max_steps": 2, "accumulate_grad_batches": 3, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer(tmp_path, **options).fit(model, uci_data(image_size=64))
    assert len(set(drawn)) == 6


def test_places_keep_their_precision_in_mixed_precision() -> None:
    torch.manual_seed(0)
    encoder = ObjectEncoder(37, 2, 32, 4, 64, 0.0).eval()
    torch.nn.init.normal_(encoder.project.weight, std=0.1)
    tokens = torch.randn(2, 5, 37)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        places = encoder(tokens)[..., :2]
    assert places.dtype == torch.float32
    assert (places != places.bfloat16()).float().mean() > 0.9
    torch.testing.assert_close(places, encoder(tokens)[..., :2], rtol=0, atol=0.03)


def test_the_encoder_knows_no_order() -> None:
    torch.manual_seed(0)
    tokens, order = torch.randn(2, 5, 37), torch.tensor([3, 0, 4, 1, 2])
    encoder = ObjectEncoder(37, 2, 32, 4, 64, 0.1).eval()
    torch.testing.assert_close(encoder(tokens[:, order]), encoder(tokens)[:, order], rtol=1e-4, atol=1e-5)


def test_masks_boxes_and_presence_say_who_has_which_pixels() -> None:
    """Slot 0 is opaque, slot 1 a quarter so, slot 2 behind slot 0."""
    model = ASTSeg(**{**SMALL, "background_activation": 0.0}).eval()
    boxes = torch.tensor([[[8.0, 8.0, 24.0, 24.0], [32.0, 32.0, 48.0, 48.0], [10.0, 10.0, 20.0, 20.0]]])
    odds = torch.tensor([[1e4, 1 / 3, 1.0]])
    model.infer = lambda image, background: {
        "attention": spatial_softmax(torch.zeros(1, 3, 16, 16)),
        "boxes": boxes,
        "log_activation": odds.log(),
        "z_what": torch.zeros(1, 3, 8),
    }
    model.glimpses.forward = lambda z_what: (torch.rand(1, 3, 1, 16, 16), torch.ones(1, 3, 16, 16))
    with torch.no_grad():
        scene = model(torch.rand(1, 1, 64, 64))
    expected = torch.zeros(64, 64, dtype=torch.long)
    expected[8:24, 8:24] = 1
    assert torch.equal(scene.mask[0], expected)
    assert torch.equal(scene.boxes[0, 0], boxes[0, 0])
    assert torch.equal(scene.boxes[0, 1], boxes[0, 1])
    assert torch.equal(scene.boxes[0, 2], boxes[0, 2])  # has no pixel: its glimpse
    torch.testing.assert_close(scene.presence[0], torch.tensor([1.0, 0.25, 0.0]), rtol=0, atol=2e-4)


def test_phases_freeze_the_background_then_train_it_with_a_fresh_optimiser(tmp_path, uci_data) -> None:
    model = ASTSeg(**{**SMALL, "background": save_background(tmp_path), "frozen_steps": 4})
    data = uci_data(image_size=64)
    start = zoo.load(tmp_path / "behind.safetensors").net.state_dict()
    seen = {}

    class Watch(ModelCheckpoint):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            seen[trainer.global_step] = "background" in batch

    run = trainer(tmp_path, max_steps=4, limit_val_batches=0, callbacks=[Watch(tmp_path, save_last=True)])
    before = parameters(model)
    run.fit(model, data)
    frozen = parameters(model)
    for name, value in frozen.items():
        if name.startswith("background."):
            assert torch.equal(value, start[name.removeprefix("background.")]), name
    assert any(not torch.equal(value, before[name]) for name, value in frozen.items() if "features" in name)
    assert seen == dict.fromkeys(range(4), True)
    again = ASTSeg(**{**SMALL, "background": "gone", "frozen_steps": 4})  # what goes on does not need the file
    run = trainer(tmp_path, max_steps=6, limit_val_batches=0, callbacks=[Watch()])
    run.fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    for name, value in parameters(again).items():
        assert not torch.equal(value, frozen[name]), name
    assert seen == {**dict.fromkeys(range(4), True), 4: False, 5: False}
    (optimizer,) = run.optimizers
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}
    assert len(optimizer.state) == len(frozen)


def test_a_trained_checkpoint_needs_its_background_no_more(tmp_path) -> None:
    background = save_background(tmp_path)
    model = ASTSeg(**{**SMALL, "background": background, "frozen_steps": 4})
    model.load_pretrained()
    path = zoo.save(model, tmp_path / "trained")
    Path(background).unlink()
    loaded = zoo.load(path)
    assert loaded.hp.background is None
    image = torch.rand(2, 1, 64, 64)
    assert torch.equal(loaded(image).background, model.eval()(image).background)
    # and is a background for others
    other = ASTSeg(**{**SMALL, "background": str(path)})
    other.load_pretrained()
    assert torch.equal(other.eval()(image).background, model(image).background)


def test_backgrounds_of_another_form_are_refused_with_the_settings_that_fit(tmp_path) -> None:
    model = ASTSeg(**{**SMALL, "background": save_background(tmp_path, code_dim=6)})
    with pytest.raises(CheckpointError, match="background_form: simple, background_code_dim: 6, background_width"):
        model.load_pretrained()
    with pytest.raises(CheckpointError, match="holds a SPAIR"):
        ASTSeg(**{**SMALL, "background": "spair-multimnist-recipe"}).load_pretrained()
    with pytest.raises(CheckpointError, match="no checkpoint 'nowhere'"):
        ASTSeg(**{**SMALL, "background": "nowhere"}).load_pretrained()


def test_freezing_nothing_is_refused_before_training(tmp_path, uci_data) -> None:
    model = ASTSeg(**{**SMALL, "frozen_steps": 4})
    with pytest.raises(CheckpointError, match=r"frozen_steps=4 needs a trained background.*configs/background.yaml"):
        trainer(tmp_path, max_steps=1).fit(model, uci_data(image_size=64))


def test_a_segformer_that_has_seen_images_can_be_pickled_and_copied() -> None:
    pytest.importorskip("transformers")
    settings = {**SMALL, "backbone": "segformer", "segformer": "nvidia/mit-b0", "pretrained": False}
    model, image = ASTSeg(**settings).eval(), torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        scene = model(image)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
        for other in (*copies, model):  # which still works
            assert torch.equal(other(image).reconstruction, scene.reconstruction)
            assert torch.equal(other(image).boxes, scene.boxes)


def test_pretrained_weights_that_cannot_be_had_are_explained(tmp_path) -> None:
    pytest.importorskip("transformers")
    settings = {**SMALL, "channels": 3, "backbone": "segformer", "segformer": str(tmp_path / "mit-b0")}
    with pytest.raises(CheckpointError, match=r"(?s)cannot get.*mit-b0.*pretrained: false.*backbone: unet"):
        ASTSeg(**settings).load_pretrained()


def test_scenes_with_more_objects_than_slots_are_warned_of(tmp_path, uci_data) -> None:
    data = uci_data(image_size=64, num_digits=[1, 5])
    with pytest.warns(UserWarning, match="up to 5 objects, and num_slots=3"):
        trainer(tmp_path).validate(ASTSeg(**SMALL), data, verbose=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"channels": 2}, "channels must be one of"),
        ({"backbone": "resnet"}, "backbone must be one of"),
        ({"backbone": "segformer", "pretrained": True}, "pretrained: true needs channels: 3"),
        ({"backbone": "segformer", "pretrained": False, "segformer": "mit"}, "mit-b0"),
        ({"num_slots": 0}, "num_slots must be at least 1"),
        ({"encoder_heads": 3}, "encoder_heads=3 must divide"),
        ({"glimpse_size": 20}, "power of two"),
        ({"glimpse_size": 0}, "power of two"),
        ({"scale_bounds": [3.0, 2.0]}, "scale_bounds must be"),
        ({"image_size": 100}, "image sizes"),
        ({"frozen_steps": -1}, "frozen_steps must be at least 0"),
        ({"term_weights": {"entropy": "high"}}, "the weight of entropy must be"),
        (
            {"term_weights": {"slots": 1.0}},
            r"term_weights has 'slots'; the loss terms are \['reconstruction', 'entropy'\]",
        ),
        ({"lr": [[0, 1e-3, 10, "wavy"]]}, "lr must be a number or .*wavy"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ASTSeg(**{**SMALL, **setting})


def test_images_whose_sides_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        ASTSeg(**SMALL).infer(*torch.rand(2, 1, 1, 60, 64))
