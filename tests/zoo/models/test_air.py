import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from contract import ModelContract, trainer

from zoo.models.air import AIR, DAIR

SMALL: dict[str, Any] = {
    "image_size": 16, "num_steps": 3, "what_dim": 4, "object_size": 6, "cell_hidden": 32, "where_hidden": (32,),
    "encoder_hidden": (32,), "decoder_hidden": (32,), "lr": 3e-3, "scale_prior": (-0.8, 0.2),
    "gradient": "concrete", "num_scales": 2, "count_prior_odds": [100.0, 0.01, 500, "exponential"],
}  # fmt: skip


class TestAIR(ModelContract):
    model_class = AIR
    settings: ClassVar = {**SMALL, "channels": 1, "image_size": [48, 40], "trim_threshold": 0.1}
    sizes = ((48, 40),)


class TestDAIR(ModelContract):
    model_class = DAIR
    settings: ClassVar = {**SMALL, "channels": 3, "image_size": 48, "cell": "mlp", "gradient": "nvil"}


def squares(num_images: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """0 to 2 white 5x5 squares on 16x16 black, not touching."""
    g = torch.Generator().manual_seed(seed)
    image = torch.zeros(num_images, 1, 16, 16)
    boxes = torch.zeros(num_images, 2, 4)
    valid = torch.arange(2) < torch.randint(0, 3, (num_images, 1), generator=g)
    for b in range(num_images):
        for n in range(int(valid[b].sum())):
            while True:
                y, x = torch.randint(0, 12, (2,), generator=g).tolist()
                if not image[b, 0, max(0, y - 1) : y + 6, max(0, x - 1) : x + 6].any():
                    break
            image[b, 0, y : y + 5, x : x + 5] = 1
            boxes[b, n] = torch.tensor([x, y, x + 5, y + 5])
    return {"image": image, "boxes": boxes, "valid": valid}


def fit(model: AIR, scenes: dict[str, torch.Tensor], steps: int, folder: Path) -> None:
    """Train in batches of 32, by the trainer, so that schedules move."""
    data = [{"image": image} for image in scenes["image"]]
    loader = torch.utils.data.DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(0))
    trainer(folder, max_steps=steps, enable_checkpointing=False).fit(model, loader)


def histories(num_steps: int) -> Iterator[list[int]]:
    """Every outcome of presence, as the model draws it: all that follows the first 0 is 0."""
    for count in range(num_steps + 1):
        yield [1] * count + [0] * (num_steps - count)


def fix_noise(model: AIR, monkeypatch: pytest.MonkeyPatch, presence: list[int], batch_size: int) -> None:
    """Where and what from one fixed seed, presence as told."""
    g = torch.Generator().manual_seed(5)
    dims = {"where": model.where_dim, "what": model.hp.what_dim}
    noise = {
        k: torch.randn(batch_size, model.hp.num_steps, d, generator=g, dtype=torch.float64) for k, d in dims.items()
    }
    noise["presence"] = (2 * torch.tensor(presence, dtype=torch.float64) - 1).mul(1e3).view(1, -1, 1)
    noise["presence"] = noise["presence"].expand(batch_size, -1, -1)
    monkeypatch.setattr(model, "draw_noise", lambda image: noise)


@pytest.mark.parametrize("cls", [AIR, DAIR])
def test_nvil_gradient_is_that_of_the_enumerated_loss(cls: type[AIR], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    settings = {**SMALL, "gradient": "nvil", "image_size": (7, 6), "initial_biases": {"presence": 0.3}}
    weights = {"kl_what": 0.7, "kl_presence": 1.3}
    model = cls(**{**settings, "count_prior_odds": 0.5}, term_weights=weights).double()
    batch = {"image": torch.rand(1, 1, 7, 6, dtype=torch.float64)}
    outcomes = []
    for presence in histories(3):
        fix_noise(model, monkeypatch, presence, 1)
        logits = model.infer(batch["image"], model.draw_noise(batch["image"]))["presence_logit"].flatten()
        log_q = torch.zeros((), dtype=torch.float64)
        for k, on in enumerate(presence):
            log_q = log_q + torch.nn.functional.logsigmoid(logits[k] if on else -logits[k])
            if not on:
                break
        outcomes.append((log_q.exp(), model.losses(batch)))
    assert sum(q.item() for q, _ in outcomes) == pytest.approx(1)
    names = ("reconstruction", "kl_where", "kl_what", "kl_presence")
    exact = sum(q * sum(weights.get(n, 1.0) * terms[n] for n in names) for q, terms in outcomes)
    estimate = sum(q.detach() * (model._total(terms) - terms["baseline"]) for q, terms in outcomes)
    assert estimate.item() == pytest.approx(exact.item())  # the surrogate has no value
    parameters = [p for name, p in model.named_parameters() if not name.startswith("baseline")]
    for a, b in zip(
        torch.autograd.grad(estimate, parameters, retain_graph=True, allow_unused=True),
        torch.autograd.grad(exact, parameters, retain_graph=True, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    assert any(
        g.abs().max() > 1e-3 for g in torch.autograd.grad(outcomes[-1][1]["baseline"], model.baseline.parameters())
    )


def test_presence_divergence_is_that_of_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AIR(**{**SMALL, "gradient": "nvil", "count_prior_odds": 0.25}).double().eval()
    logit, p = 0.4, 0.2
    q = 1 / (1 + math.exp(-logit))
    with torch.no_grad():
        model.locate[-1].weight.zero_()
        model.locate[-1].bias[-1] = logit
    expected = mean = 0.0
    for presence in histories(3):
        n = sum(presence)
        q_n, p_n = (r**n * (1 - r if n < 3 else 1) for r in (q, p))  # geometric, cut off at 3
        expected += q_n * math.log(q_n / p_n)
        fix_noise(model, monkeypatch, presence, 2)
        mean += q_n * model.losses({"image": torch.rand(2, 1, 16, 16, dtype=torch.float64)})["kl_presence"].item()
    assert mean == pytest.approx(expected, rel=1e-9)


def test_forward_stops_where_the_count_is_more_likely_reached() -> None:
    torch.manual_seed(0)
    model = AIR(**SMALL)
    with torch.no_grad():
        model.locate[-1].weight[-1].zero_()
        model.locate[-1].bias[-1] = math.log(0.8 / 0.2)
    image = torch.rand(2, 1, 16, 16)
    scene = model(image)
    scene.check(image)
    torch.testing.assert_close(scene.presence, torch.tensor([[0.8, 0.64, 0.512]] * 2))
    with torch.no_grad():
        model.locate[-1].bias[-1] = math.log(0.75 / 0.25)
    scene, again = model.train()(image), model.eval()(image)
    torch.testing.assert_close(scene.presence, torch.tensor([[0.75, 0.5625, 0.421875]] * 2))
    torch.testing.assert_close(scene.reconstruction, again.reconstruction, rtol=0, atol=0)
    q = model.infer(image, None)
    drawn = model.draw(q["patches"][:, :2], q["boxes"][:, :2], torch.ones(2, 2, 1))
    torch.testing.assert_close(scene.reconstruction, drawn.clamp(0, 1))


def test_the_count_that_forward_tells_is_the_median_of_its_distribution() -> None:
    """Not the mode: chances of 0.6, three times, make none the likeliest number (0.4), and one the middle."""
    for p in (0.3, 0.49, 0.51, 0.6, 0.72, 0.79, 0.81, 0.9):
        model = AIR(**SMALL).eval()
        with torch.no_grad():
            model.locate[-1].weight[-1].zero_()
            model.locate[-1].bias[-1] = math.log(p / (1 - p))
        told = int((model(torch.rand(1, 1, 16, 16)).presence >= 0.5).sum())
        chance = [p**n * (1 - p if n < 3 else 1) for n in range(4)]
        assert sum(chance) == pytest.approx(1)
        assert sum(chance[:told]) < 0.5 <= sum(chance[: told + 1])
        if p == 0.6:
            assert (told, max(range(4), key=chance.__getitem__)) == (1, 0)


def test_dair_sees_what_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 16, 16)
    for cls, reads in ((AIR, 1), (DAIR, 3)):
        model = cls(**SMALL, see_latents=False)
        seen: list[torch.Tensor] = []
        read = model.cell.read
        monkeypatch.setattr(model.cell, "read", lambda x, seen=seen, read=read: (seen.append(x), read(x))[1])
        q = model.infer(image, model.draw_noise(image))
        assert len(seen) == reads
        for t, remaining in enumerate(seen):
            before = model.draw(q["patches"][:, :t], q["boxes"][:, :t], q["presence"][:, :t]) if t else 0
            torch.testing.assert_close(remaining, image - before)
        everything = model.draw(q["patches"], q["boxes"], q["presence"])
        torch.testing.assert_close(q["canvas"], everything)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (AIR, {"gradient": "concrete"}),
        (AIR, {"gradient": "nvil", "num_scales": 1}),
        (DAIR, {"gradient": "concrete", "cell": "mlp", "likelihood": "bernoulli"}),
        (DAIR, {"gradient": "nvil", "see_latents": False, "residual_where": False}),
    ],
)
def test_the_loss_falls_in_every_variant(cls: type[AIR], settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    scenes = squares(64)
    model = cls(**{**SMALL, **settings})

    @torch.no_grad()
    def loss() -> float:
        torch.manual_seed(1)
        return sum(model.eval()._total(model.losses(scenes)).item() for _ in range(4)) / 4

    before = loss()
    fit(model.train(), scenes, 100, tmp_path)
    # a white square costs 25 / (2 * 0.3^2) = 139 nats if it is not drawn
    assert loss() < before - 40


def test_it_learns_to_count_and_to_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scenes = squares(256)
    model = DAIR(**{**SMALL, "count_prior_odds": [100.0, 0.01, 60, "exponential"], "trim_threshold": 0.3})
    fit(model, scenes, 450, tmp_path)
    held_out = squares(256, seed=1)
    scene = model.eval().see(held_out)
    right = (scene.presence >= 0.5).sum(1) == held_out["valid"].sum(1)
    assert right.float().mean() > 0.85
    centers = (scene.boxes[..., :2] + scene.boxes[..., 2:]) / 2
    true = (held_out["boxes"][..., :2] + held_out["boxes"][..., 2:]) / 2
    nearest = torch.cdist(true, centers).masked_fill(scene.presence[:, None] < 0.5, 99).amin(-1)
    assert (nearest[held_out["valid"]] < 1.5).float().mean() > 0.85


def test_known_count() -> None:
    torch.manual_seed(0)
    batch = squares(8)
    model = AIR(**{**SMALL, "gradient": "nvil"}, known_count=True)
    assert model.baseline is None
    assert set(model.losses(batch)) == {"reconstruction", "kl_where", "kl_what"}
    torch.testing.assert_close(model.see(batch).presence, (torch.arange(3) < batch["valid"].sum(1)[:, None]).float())
    assert (model(batch["image"]).presence == 1).all()
    # room for more objects than steps is no error, more objects are
    roomy = {**batch, "valid": torch.nn.functional.pad(batch["valid"], (0, 4))}
    assert set(model.losses(roomy)) == set(model.losses(batch))
    with pytest.raises(ValueError, match=r"num_steps=3 is below the 4 objects.*raise model.init_args.num_steps"):
        model.losses({**batch, "valid": torch.ones(8, 4, dtype=torch.bool)})
    with pytest.raises(ValueError, match="needs batches with `valid`"):
        model.losses({"image": batch["image"]})
    with pytest.raises(ValueError, match="known_count=true"):
        AIR(**SMALL)(batch["image"], torch.ones(8))


def test_posterior_starts_at_the_prior() -> None:
    for residual, where in ((True, (-0.8, 0.2 * 0.13)), (False, (0.0, 0.13))):
        model = AIR(**SMALL, residual_where=residual)
        with torch.no_grad():
            model.locate[-1].weight.zero_()
            model.locate[-1].bias.zero_()
        q = model.infer(torch.rand(1, 1, 16, 16), None)
        assert q["where_mean"][0, 0, 0].item() == pytest.approx(where[0], abs=1e-6)
        assert q["where_std"][0, 0, 0].item() == pytest.approx(where[1], rel=1e-5)


def test_baseline_has_its_own_learning_rate(tmp_path: Path) -> None:
    settings = {**SMALL, "gradient": "nvil", "lr": [1e-3, 0.0, 4, "linear"], "baseline_lr": 0.02}
    model = AIR(**settings)
    assert model.baseline is not None
    fit(model, squares(64), 3, tmp_path)
    rates = {id(p): group["lr"] for group in model.optimizers().param_groups for p in group["params"]}
    own = {id(p) for p in model.baseline.parameters()}
    # as the next step has them
    assert rates == {id(p): pytest.approx(0.02 if id(p) in own else 0.25e-3) for p in model.parameters()}


def test_generation_follows_the_prior() -> None:
    torch.manual_seed(0)
    model = AIR(**{**SMALL, "count_prior_odds": 1.0})
    scene = model.generate(4000, generator=torch.Generator().manual_seed(0))
    share = scene.presence.sum(1).long().bincount(minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([0.5, 0.25, 0.125, 0.125]), rtol=0, atol=0.03)
    half = (1.0 + scene.attention_boxes[..., 0] + scene.attention_boxes[..., 2]).div(2).sub(8.5).abs() < math.tanh(
        1
    ) * 8
    assert half.float().mean().item() == pytest.approx(0.683, abs=0.02)  # one standard deviation of the shift
    again = model.generate(4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scene.reconstruction, again.reconstruction, rtol=0, atol=0)
    crowd = model.generate(2, (20, 32), count=7)
    crowd.check(torch.empty(2, 1, 20, 32))
    assert crowd.presence.sum().item() == 14


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient": "reinforce"}, r"gradient must be one of \['concrete', 'nvil'\], got 'reinforce'"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"cell": "gru"}, "cell must be one of"),
        ({"num_scales": 3}, "num_scales must be one of"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"num_steps": 0}, "num_steps must be above 0"),
        ({"scale_prior": (0.0, 0.0)}, r"scale_prior must be \[mean, std\] with std above 0"),
        ({"count_prior_odds": [1.0, 0.0, 10, "linear"]}, "count_prior_odds must be above 0"),
        ({"count_prior_odds": [1.0, 0.1, 10]}, "count_prior_odds must be a number or"),
        ({"count_prior_odds": [[1.0, 0.1, 10, "linear"], [0.1, 0.0, 9, "step"]]}, "count_prior_odds must be above 0"),
        ({"image_size": (10, 10, 10)}, "image_size must be"),
        ({"trim_threshold": 1.0}, "trim_threshold must be null or in"),
        ({"term_weights": {"kl_where": "much"}}, "the weight of kl_where"),
        ({"term_weights": {"kl_size": 1.0}}, "term_weights has 'kl_size'"),
        ({"initial_biases": {"size": 1.0}}, "initial_biases has 'size'"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AIR(**{**SMALL, **settings})


def test_images_of_another_size() -> None:
    model = AIR(**SMALL)
    with pytest.raises(ValueError, match=r"image_size=\[16, 16\], got \[16, 20\].*model.init_args.image_size and data"):
        model(torch.rand(1, 1, 16, 20))
    with pytest.raises(ValueError, match="channels"):
        model(torch.rand(1, 3, 16, 16))


def test_all_cells_and_sizes_make_scenes() -> None:
    for cls, cell, scales, channels in product((AIR, DAIR), ("lstm", "mlp"), (1, 2), (1, 3)):
        settings = {**SMALL, "image_size": (9, 14), "channels": channels, "num_scales": scales}
        model = cls(**settings, cell=cell)
        image = torch.rand(2, channels, 9, 14)
        scene = model(image)
        scene.check(image)
        w, h = (scene.boxes[..., 2:] - scene.boxes[..., :2]).unbind(-1)
        assert torch.allclose(h / 9, w / 14) == (scales == 1)


def test_a_pixel_is_the_brightest_object_s() -> None:
    model = AIR(image_size=20, num_steps=3, object_size=4, trim_threshold=0.3)
    patches = torch.zeros(1, 3, 1, 4, 4)
    patches[0, :, :] = torch.tensor([0.6, 0.9, 1.0])[:, None, None, None]
    patches[0, 0, 0, :, :2] = 0.2  # the left half of the first is too dark to count
    boxes = torch.tensor([[[0.0, 0, 12, 12], [8, 8, 20, 20], [0, 0, 20, 20]]])
    belief = torch.tensor([[[1.0], [0.7], [0.4]]])  # the third is absent
    scene = model._scene(torch.zeros(1, 1, 20, 20), boxes, patches, belief, torch.zeros(1, 3, 50))
    mask = scene.mask[0]
    assert (mask[:8, 8:11] == 1).all()
    assert not mask[:8, :4].any()
    assert (mask[9:19, 9:19] == 2).all()  # on the first's corner, too
    assert not mask[:7, 13:].any()
