"""Each model in each precision: it works, or is refused before training with the fix."""

import dataclasses
from typing import Any

import pytest
import torch
from contract import trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler

from datamodules import MultiMNISTDataModule
from zoo.models import AIR, DAIR, SPAIR, ASTSeg, ASTSegRecipe, BackgroundAE, DiscreteAIRRecipe, GMAIRRecipe, ObjectModel
from zoo.models.base import RefusedError
from zoo.scene import Scene

AIR_LIKE = {"image_size": 48, "cell_hidden": 16, "where_hidden": [8], "encoder_hidden": [8], "decoder_hidden": [8]}
AST_LIKE = {
    "image_size": 64, "num_slots": 3, "what_dim": 4, "encoder_layers": 1, "encoder_dim": 16, "encoder_heads": 2,
    "encoder_hidden": 16, "glimpse_size": 8, "background_form": "simple", "background_width": 0.1,
}  # fmt: skip
MODELS: dict[str, tuple[type[ObjectModel], dict[str, Any]]] = {
    "AIR": (AIR, {**AIR_LIKE, "gradient": "nvil"}),
    "DAIR": (DAIR, {**AIR_LIKE, "cell": "mlp", "gradient": "concrete"}),
    "DiscreteAIRRecipe": (
        DiscreteAIRRecipe,
        {
            "image_size": 48, "cell_hidden": 16, "where_hidden": [8], "encoder_hidden": [8], "heat_map": True,
            "second_glimpse": True, "second_hidden": [8], "template_hidden": [8], "attribute_hidden": [8],
            "combination": "convolutional", "term_weights": {"balance": 1.0},
        },
    ),
    "SPAIR": (SPAIR, {"backbone_channels": 8, "encoder_hidden": [8], "decoder_hidden": [8], "background": "mlp"}),
    "GMAIR": (
        GMAIRRecipe,
        {
            "backbone_widths": [8, 8, 8, 8], "backbone_blocks": 1, "backbone_up": [8, 8], "head_hidden": [8],
            "encoder_hidden": [8], "decoder_channels": [8, 8, 8, 8], "glimpse_size": 8, "what_dim": 8,
            "fine_categories": 4, "term_weights": {"consistency": 1.0, "balance": 1.0}, "where_norm": 1.0,
            "what_prior_at": "expectation",
        },
    ),
    "ASTSeg": (ASTSeg, {**AST_LIKE, "backbone": "unet", "unet_channels": [8, 16]}),
    "ASTSegRecipe": (
        ASTSegRecipe,
        {
            **AST_LIKE, "backbone": "unet", "unet_channels": [8, 16], "unet_position": True, "attended_color": True,
            "encoder_residual": True, "see_background": True, "layer_error": 0.5,
        },
    ),
    "ASTSeg-Segformer": (
        ASTSeg, {**AST_LIKE, "backbone": "segformer", "segformer": "nvidia/mit-b0", "pretrained": False}
    ),
    "BackgroundAE": (BackgroundAE, {"image_size": 64, "form": "simple", "width": 0.1}),
}  # fmt: skip
WORK = ("32-true", "bf16-mixed", "16-mixed", "64-true")
SLOW = ("ASTSeg", "ASTSegRecipe", "ASTSeg-Segformer", "BackgroundAE")  # in float16, convolutions of a CPU
REFUSED = ("bf16-true", "16-true")
KEPT = {"bfloat16": torch.bfloat16, "half": torch.float16, "double": torch.float64}


def make(name: str) -> ObjectModel:
    torch.manual_seed(0)
    kind, settings = MODELS[name]
    return kind(**{"channels": 1, "lr": 1e-3, **settings})


def size(model: ObjectModel) -> int:
    return model.hparams.get("image_size", 48)


def options(precision: str, model: ObjectModel) -> dict[str, Any]:
    if precision == "16-mixed":  # which Lightning makes bf16-mixed on a CPU by itself
        # as the scaler would find by skipping steps: losses are thousands of nats, or fractions
        scale = 2.0**16 if isinstance(model, ASTSeg | BackgroundAE) else 16.0
        return {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=scale))]}
    return {"precision": precision}


def check(scene: Scene, image: torch.Tensor, dtype: torch.dtype) -> None:
    scene.check(image)
    for field in dataclasses.fields(Scene):
        value = getattr(scene, field.name)
        if value is not None and value.is_floating_point():
            assert value.dtype == dtype, field.name
            assert value.isfinite().all(), field.name


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=pytest.mark.slow if name in SLOW and precision == "16-mixed" else ())
        for name in MODELS
        for precision in WORK
    ],
)
def test_a_model_trains_tests_predicts_and_imagines(name: str, precision: str, tmp_path, uci_data) -> None:
    model = make(name)
    before = {key: value.clone() for key, value in model.named_parameters()}
    data = uci_data(image_size=size(model), num_digits=1, num_train=16, num_val=4, num_test=4, batch_size=4, masks=True)
    settings = {"enable_checkpointing": False, **options(precision, model)}
    run = trainer(tmp_path, max_steps=2, limit_val_batches=1, **settings)
    run.fit(model, data)
    assert model.steps_trained == 2
    moved = [key for key, value in model.named_parameters() if not torch.equal(value.float(), before[key])]
    assert len(moved) > 0.8 * len(before)
    assert all(p.isfinite().all() for p in model.parameters())
    metrics = run.test(model, data, verbose=False)[0]
    assert all(value == value for key, value in metrics.items() if "kl" in key or "loss" in key), metrics
    dtype = torch.float64 if precision == "64-true" else torch.float32
    for fields in run.predict(model, data):
        for key, value in fields.items():
            assert value.dtype in (dtype, torch.int64), key
            value.numpy()
    image = torch.rand(2, 1, size(model), size(model))
    with torch.no_grad():
        check(model.eval()(image), image, dtype)
    check(model.predict(image), image, dtype)
    if hasattr(model, "generate"):
        check(model.generate(2, (size(model),) * 2, count=2), image, dtype)


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision_changes_little_and_boxes_hardly_at_all(name: str, tmp_path) -> None:
    """Halves round to three digits: boxes that were computed in them would be off by a quarter of a pixel."""
    model = make(name).eval()
    image = torch.rand(2, 1, size(model), size(model))
    with torch.no_grad():
        exact = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(image)
            drawn = (
                model.generate(2, (size(model),) * 2, torch.Generator().manual_seed(1))
                if (hasattr(model, "generate"))
                else exact
            )
    check(mixed, image, torch.float32)
    torch.testing.assert_close(mixed.reconstruction, exact.reconstruction, rtol=0, atol=0.05)
    if name != "BackgroundAE":  # whose boxes are where a threshold is passed
        places = mixed.boxes if mixed.attention_boxes is None else mixed.attention_boxes
        fraction = (places * 16).frac().abs()
        assert ((fraction > 0.01) & (fraction < 0.99)).any()  # of a place that has more than eight bits
    check(drawn, image, torch.float32)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("precision", REFUSED)
def test_halves_alone_are_refused_before_data_are_made_with_the_fix(
    precision: str, stage: str, tmp_path, uci_data, monkeypatch
) -> None:
    prepared: list[str] = []
    monkeypatch.setattr(MultiMNISTDataModule, "prepare_data", lambda self: prepared.append("data"))
    for name in ("AIR", "ASTSeg"):
        model = make(name)
        run = trainer(tmp_path, max_steps=1, precision=precision)
        with pytest.raises(RefusedError, match=f"precision={precision} .*{type(model).__name__}.*: use bf16-mixed"):
            getattr(run, stage)(model, datamodule=uci_data())
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not prepared


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("name", MODELS)
def test_weights_kept_in_another_precision_see_and_imagine(name: str, kept: str) -> None:
    model = make(name).eval()
    image = torch.rand(3, 1, size(model), size(model))
    expected = model.predict(image)
    getattr(model, kept)()
    dtype = torch.float64 if kept == "double" else torch.float32
    scene = model.predict(image)
    check(scene, image, dtype)
    tolerance = 1e-4 if kept == "double" else 0.02
    torch.testing.assert_close(scene.reconstruction.float(), expected.reconstruction, rtol=0, atol=tolerance)
    assert len(scene.objects(threshold=0.0)) == 3
    with torch.no_grad():
        check(model(image.to(KEPT[kept])), image, dtype)
    if hasattr(model, "generate"):
        check(model.generate(2, (size(model),) * 2, count=1), image[:2], dtype)
    assert {p.dtype for p in model.parameters()} == {KEPT[kept]}  # as it was
    if kept != "double":
        with pytest.raises(ValueError, match=r"computes in torch.float32, got .* weights: .*model.float\(\)"):
            model.losses({"image": image, "valid": torch.ones(3, 1)})
        with pytest.raises(RefusedError, match=r"call model.float\(\)"):
            trainer("").test(model, [{"image": image}])
