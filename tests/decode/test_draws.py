"""Where each draw of an acceptor happens and what it is for; and that nothing is made on another device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from specctl.decode.accept import Acceptor, coupled, greedy, rejection
from specctl.decode.draft import Draft, Request, Row, Verdict
from specctl.decode.noise import Place, Stream
from specctl.decode.sampling import Law, Sampler
from specctl.models.cache import SlotCache

VOCAB = 7


class Noted:
    """Coins by threshold, tokens by likelihood; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Place, Stream]] = []

    def accept(self, probability: Tensor, at: Sequence[Place]) -> Tensor:
        self.asked += [(place, Stream.ACCEPT) for place in at]
        return probability > 0.5

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        self.asked += [(place, stream) for place in at]
        return probs.argmax(dim=-1)


def asked(accept: Acceptor, drafts: list[list[int]], best: list[list[int]]) -> tuple[Noted, Verdict]:
    """Rows of 2, 3, … tokens with seeds 10, 11, …; `best` is the target's all but certain token at each slot."""
    noted = Noted()
    rows = [Row(b, Request((1,) * (2 + b), 9, seed=10 + b), [1] * (2 + b)) for b in range(len(drafts))]
    scores = torch.zeros(len(best), len(best[0]), VOCAB, dtype=torch.float64)
    scores.scatter_(2, torch.tensor(best)[:, :, None], 50.0)
    verdict = accept(scores, Draft(drafts), rows, Sampler(Law(1.0), noted))
    return noted, verdict


def test_rejection_draws_the_residual_apart_from_the_targets_own_token() -> None:
    """The first row is accepted whole, the second rejected at its second token, the third drafts nothing."""
    drafts, best = [[3, 4], [3, 4], []], [[3, 4, 5], [3, 6, 5], [2, 0, 0]]
    noted, verdict = asked(rejection, drafts, best)
    assert verdict.accepted.tolist() == [2, 1, 0]
    assert verdict.bonus.tolist() == [5, 6, 2]
    coins, bonus = noted.asked[:6], noted.asked[6:]
    assert coins == [(Place(10 + b, 2 + b + slot), Stream.ACCEPT) for b in range(3) for slot in range(2)]
    assert bonus == [
        (Place(10, 4), Stream.TARGET),
        (Place(11, 4), Stream.RESIDUAL),
        (Place(12, 4), Stream.TARGET),
    ]


def test_coupled_draws_every_slot_as_plain_sampling_would() -> None:
    noted, verdict = asked(coupled, [[3, 4], [3, 4]], [[3, 4, 5], [3, 6, 5]])
    assert verdict.bonus.tolist() == [5, 6]
    assert noted.asked == [(Place(10 + b, 2 + b + s), Stream.TARGET) for b in range(2) for s in range(3)]


def test_sampling_is_coupled_only_if_asked() -> None:
    assert Sampler.keyed(Law(1.0)).coupled is False
    assert Sampler.keyed(Law(1.0), coupled=True).coupled is True


def accepts(accept: Acceptor) -> Callable[[], object]:
    def work() -> object:
        _, verdict = asked(accept, [[3, 4], [3]], [[3, 4, 5], [3, 6, 5]])
        return verdict.accepted.tolist(), verdict.bonus.tolist()

    return work


def penalises() -> object:
    logits = torch.ones(1, 2, VOCAB, device="cpu")
    return Law(repetition_penalty=2.0).scores(logits, [[1, 2]], [[3]]).tolist()


def writes() -> object:
    cache = SlotCache(1)
    cache.admit()
    cache.admit()
    cache.commit(0, 3)
    cache.reserve(2, 16)
    cache.open_window(range(2), 2)
    states = torch.ones(2, 1, 2, 4, device="cpu")
    keys, values = cache.slot_layers[0].update(states, states)
    return keys.tolist(), values.tolist()


def pads() -> object:
    cache = SlotCache(1)
    for row, length in enumerate((1, 2)):
        states = torch.ones(1, 1, length, 4, device="cpu")
        cache.admit()
        cache.open_window(range(row, row + 1), length)
        cache.slot_layers[0].update(states, states)
        cache.commit(row, length)
    cache.align(2)
    return [tensor[:, :, :2].tolist() for tensor in cache.slot_layers[0].tensors()]


@pytest.mark.parametrize(
    "work",
    [accepts(greedy), accepts(coupled), accepts(rejection), penalises, writes, pads],
    ids=["greedy", "coupled", "rejection", "penalty", "cache", "padding"],
)
def test_tensors_are_made_where_the_scores_are(
    work: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is made without a device lands on `meta` here, where nothing is computed: as bad as on a GPU."""
    expected = work()
    made = {name: getattr(torch, name) for name in ("tensor", "arange")}

    def elsewhere(name: str) -> Callable[..., Tensor]:
        def make(*arguments: object, **options: object) -> Tensor:
            if options.get("device") is None:
                options["device"] = "meta"
            result: Tensor = made[name](*arguments, **options)
            return result

        return make

    import specctl.decode.accept
    import specctl.decode.draft
    import specctl.decode.sampling
    import specctl.models.cache

    class Torch:
        """`torch`, but for the makers above."""

        def __getattr__(self, name: str) -> object:
            return elsewhere(name) if name in made else getattr(torch, name)

    modules = (specctl.decode.accept, specctl.decode.draft, specctl.decode.sampling, specctl.models.cache)
    for module in modules:
        monkeypatch.setattr(module, "torch", Torch())
    assert work() == expected
