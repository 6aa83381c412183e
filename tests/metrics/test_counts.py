import pytest
import torch

from metrics import CountAccuracy, CountError


def test_equal_literal_counts():
    generator = torch.Generator().manual_seed(0)
    accuracy, error = CountAccuracy(threshold=0.7), CountError(threshold=0.7)
    differences = []
    for B, K, N in [(16, 4, 3), (9, 6, 6), (1, 2, 1), (3, 0, 2), (2, 3, 0), (0, 3, 3)]:
        presence = (torch.rand(B, K, generator=generator) * 10).round() / 10
        valid = torch.rand(B, N, generator=generator) < 0.4
        accuracy.update(presence, valid)
        error.update(presence, valid)
        for slots, rows in zip(presence.tolist(), valid.tolist(), strict=True):
            differences.append(abs(sum(slot >= 0.7 - 1e-6 for slot in slots) - sum(rows)))
    assert accuracy.compute().item() == pytest.approx(sum(d == 0 for d in differences) / 31)
    assert error.compute().item() == pytest.approx(sum(differences) / 31)


@pytest.mark.parametrize("kind", [CountAccuracy, CountError])
def test_threshold_counts(kind: type):
    # Presence of exactly .5 is an object, a hair less is not: the prediction is 1 of 1.
    metric = kind()
    metric.update(torch.tensor([[0.5, 0.4999]]), torch.tensor([[True, False]]))
    assert metric.compute() == (1 if kind is CountAccuracy else 0)


@pytest.mark.parametrize("kind", [CountAccuracy, CountError])
def test_nan_where_undefined(kind: type):
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert kind().compute().isnan()
    metric = kind()
    metric.update(torch.tensor([[1.0]]), torch.tensor([[True]]))
    metric.update(torch.tensor([[torch.nan]]), torch.tensor([[True]]))
    assert metric.compute().isnan()


@pytest.mark.parametrize("kind", [CountAccuracy, CountError])
def test_states_are_exact_and_not_shared(kind: type):
    metric = kind().to(torch.bfloat16)  # would round 257 to 256
    for value in (metric(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)) for _ in range(257)):
        assert value == (0 if kind is CountAccuracy else 2)
    before = [(state, state.item()) for state in metric.metric_state.values()]
    metric.update(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    assert all(state == value for state, value in before)  # an in-place sum would reach other processes
    assert metric.compute().item() == pytest.approx(1 / 258 if kind is CountAccuracy else 514 / 258)


@pytest.mark.parametrize("kind", [CountAccuracy, CountError])
def test_update_reads_no_value(kind: type):
    kind().to("meta").update(torch.zeros(2, 3, device="meta"), torch.zeros(2, 4, dtype=torch.bool, device="meta"))


@pytest.mark.parametrize("kind", [CountAccuracy, CountError])
def test_wrong_input_is_named(kind: type):
    for threshold in (0, 1.5):
        with pytest.raises(ValueError, match="threshold is"):
            kind(threshold=threshold)
    with pytest.raises(ValueError, match=r"presence has shape \(2, 3, 1\), expected \(B, K\)"):
        kind().update(torch.zeros(2, 3, 1), torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"target_valid has shape \(3, 3\), expected \(2, N\)"):
        kind().update(torch.zeros(2, 3), torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected torch.bool"):
        kind().update(torch.zeros(2, 3), torch.zeros(2, 3))
