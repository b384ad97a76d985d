"""Small runs in which a planted bug has to show: tiny float64 models, drafts of three tokens.

Blocks are always four wide (one committed token and three drafted ones, or dummies), so that plain decoding and
speculation have equal shapes, and equal bits, with any kernel. A scene returns the verdicts found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from counts import g_test
from toys import toy_lm

from enumerator import EXACT, HARD, distance, smooth, trimmed, world
from fake_tokenizers import byte_tokenizer
from fakes import VOCAB, ask, noisy_lm, render, scripts, tiny_module
from specctl.decode import accept as accept_module
from specctl.decode.accept import ACCEPTORS
from specctl.decode.draft import Draft, Drafter, Parts, Request, Row
from specctl.decode.loop import Rules, decode
from specctl.decode.noise import KeyedDraws, Place, Stream
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.drafters.draft_model import DraftModel
from specctl.equivalence.claims import Claims
from specctl.equivalence.coverage import Coverage
from specctl.equivalence.drawn import Drawn
from specctl.equivalence.fidelity import Fidelity
from specctl.equivalence.greedy import Watchers, verify_greedy
from specctl.equivalence.reference import decode_plainly
from specctl.equivalence.report import Verdict
from specctl.equivalence.sampled import SampledLaw
from specctl.equivalence.subject import Subject, from_session
from specctl.equivalence.turns import verify_turns
from specctl.equivalence.verify import _vacuous
from specctl.equivalence.watch import Watched
from specctl.models import trimmed as trimming
from specctl.models.lm import LM
from specctl.profile.drafters import DraftModelParams
from specctl.profile.schema import Profile
from specctl.session import Session, SessionInfo

K = 3
HOT = Law(temperature=3.0, top_k=12)
Verdicts = frozenset[Verdict]
MakeDrafter = Callable[[Sampler], Drafter]


def small(kind: str = "llama", **changes: Any) -> Any:
    return tiny_module(kind, num_hidden_layers=2, **changes)


@cache
def target_lm(kind: str = "llama") -> LM:
    module = small(tie_word_embeddings=True) if kind == "tied" else small(kind)
    return LM(module, "toy", row_floor=K + 1)


@cache
def draft_lm(disturbed: float = 0.2) -> LM:
    """The target's weights, disturbed, so that it is right now and then."""
    module = small()
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise * disturbed * parameter.std())
    return LM(module, "toy draft", row_floor=K + 1)


def subject(
    make_drafter: MakeDrafter | None = None,
    *,
    lm: LM | None = None,
    draft: LM | None = None,
    law: Law | None = None,
    accept: str = "greedy",
    eos: frozenset[int] = frozenset(),
) -> Subject:
    """With a drafter of its own, or a draft model."""
    lm = lm or target_lm()
    draft = draft or (draft_lm() if make_drafter is None else None)
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    params = DraftModelParams(method="draft-model", draft_tokens=K)

    def with_model(sampler: Sampler) -> Drafter:
        return DraftModel(params, Parts(lm, draft, sampler, eos))

    make = make_drafter or with_model
    return Subject(
        target=lm,
        make_target=lambda slots, capacity: Target(
            lm, slots=slots, capacity=capacity, captures=frozenset(make(sampler).needs)
        ),
        make_drafter=make,
        rules=Rules(ACCEPTORS[accept], sampler, eos, lm.context_length, render),
        name="toy",
        numerics="invariant",
        draft=draft,
    )


@cache
def answers(kind: str = "llama", n: int = 4, new: int = 24, law: Law | None = None) -> list[list[int]]:
    """What the right engine says; asked for before anything is planted."""
    lm = target_lm(kind)
    rules = Rules(ACCEPTORS["greedy"], Sampler.keyed(law or Law()), frozenset(), lm.context_length, render)
    return [decode_plainly(lm, one, rules).tokens for one in ask(n, new)]


def prepare() -> None:
    """Whatever a scene knows of the right engine."""
    answers()
    answers("mistral")
    answers("tied", law=PENALTY)


def greedy(
    subject: Subject, requests: Sequence[Request], batch_size: int = 1, audit: float = 1.0
) -> Verdicts:
    reports = verify_greedy(subject, requests, batch_size=batch_size, noise=None, audit=audit)
    return frozenset(
        found for report in reports for found in (report.verdict, *(one.verdict for one in report.problems))
    )


def scripted(name: str, known: Sequence[Sequence[int]]) -> MakeDrafter:
    return lambda sampler: scripts(known, K)[name]


def draft_model(batch_size: int = 1) -> Verdicts:
    return greedy(subject(), ask(3, 12), batch_size)


def batch() -> Verdicts:
    """Rows of unequal prompts and caps: they leave in different rounds, others join."""
    requests = [replace(one, max_new_tokens=new) for one, new in zip(ask(4), (5, 13, 8, 10), strict=True)]
    return greedy(subject(), requests, batch_size=3)


def right() -> Verdicts:
    return greedy(subject(scripted("always-right", answers())), ask(3, 12))


def coin() -> Verdicts:
    return greedy(subject(scripted("coin", answers())), ask(3, 12))


def uneven() -> Verdicts:
    return greedy(subject(scripted("uneven", answers())), ask(4, 10), batch_size=3)


def over_long() -> Verdicts:
    return greedy(subject(scripted("over-long", answers())), ask(3, 9))


PENALTY = Law(repetition_penalty=2.0)


def penalty() -> Verdicts:
    """A model that would repeat its last token for ever, but for the penalty."""
    found = frozenset[Verdict]()
    for name in ("coin", "always-right"):
        drafter = scripted(name, answers("tied", law=PENALTY))
        found |= greedy(subject(drafter, lm=target_lm("tied"), law=PENALTY), ask(2, 12))
    return found


def ends() -> Verdicts:
    """Two ids end a sequence: each is the first at another slot of a fully accepted block."""
    found: set[Verdict] = set()
    for at in (4, 5, 6, 7):
        known = answers()
        eos = frozenset({min(known[0][at], known[1][at]), max(known[0][at], known[1][at])})
        drafter = scripted("always-right", known)
        found |= greedy(subject(drafter, eos=eos), ask(2, 8), audit=0)
    return frozenset(found)


def stops() -> Verdicts:
    """Stop strings that cross two tokens, within a block and across its border."""
    known = answers()
    found: set[Verdict] = set()
    for at in (0, 2, 3):
        stop = (render(known[0][at : at + 3])[1:5],)
        drafter = scripted("always-right", known)
        found |= greedy(subject(drafter), [replace(ask(1, 10)[0], stop=stop)], audit=0)
    return frozenset(found)


def window() -> Verdicts:
    return greedy(subject(scripted("coin", answers("mistral")), lm=target_lm("mistral")), ask(2, 14))


@cache
def tied_lm() -> LM:
    """Each word has a twin: two rows of the head are equal, so every best token is tied."""
    lm = LM(small(), "tied", row_floor=K + 1)
    with torch.no_grad():
        head = lm.module.get_output_embeddings().weight
        head[VOCAB // 2 :] = head[: VOCAB // 2]
    return lm


def ties() -> Verdicts:
    return greedy(subject(lambda sampler: scripts([[]] * 2, K)["never-right"], lm=tied_lm()), ask(2, 8))


# Drafts -------------------------------------------------------------------------------------------------------


@cache
def short_lm() -> LM:
    """A draft whose context ends in the middle of the answers."""
    return LM(small(max_position_embeddings=14), "short", row_floor=K + 1)


def watched(one: Subject, requests: Sequence[Request], batch_size: int = 2) -> Verdicts:
    itself = one.draft is not None and one.draft.module.base_model is one.target.module.base_model
    fidelity, claims = Fidelity(one, itself=itself), Claims(one)
    watchers = Watchers(drafter=lambda drafter: claims.watch(fidelity.watch(drafter)))
    reports = verify_greedy(one, requests, batch_size=batch_size, noise=None, audit=0, watchers=watchers)
    problems = [*fidelity.problems(), *claims.problems()]
    assert fidelity.remade.compared
    return frozenset({report.verdict for report in reports} | {problem.verdict for problem in problems})


def fidelity() -> Verdicts:
    """A draft that is right now and then, and the target as its own draft: always right."""
    return watched(subject(), ask(2, 10)) | watched(subject(draft=target_lm()), ask(2, 10))


def trimmed_itself() -> Verdicts:
    """The target drafts with half of its head: whatever it says of that half is right."""
    half = torch.arange(0, VOCAB, 2)
    head = trimming.cut(target_lm(), half)
    eos = frozenset({VOCAB - 2})
    return watched(subject(draft=trimming.trimmed(target_lm(), head), eos=eos), ask(3, 12))


def coupled() -> Verdicts:
    return watched(subject(law=HOT, accept="coupled"), ask(2, 10))


def short_draft() -> Verdicts:
    return watched(subject(draft=short_lm()), ask(2, 12))


@cache
def talking() -> Session:
    """A session on the toys in bf16, where what a cache holds does not depend on how it got there."""
    profile = Profile.model_validate(
        {
            "schema": 1, "about": "a test", "target": "here", "name": "test", "draft": "there",
            "drafter": {"method": "draft-model", "draft_tokens": K},
        }
    )  # fmt: skip
    module = tiny_module(dtype=torch.bfloat16)
    module.load_state_dict(noisy_lm().module.state_dict())
    draft = LM(module, "noisy", row_floor=2)
    info = SessionInfo("toy", "noisy", "cpu", "bfloat16", "invariant", None, None, "greedy", True)
    return Session(profile, info, byte_tokenizer(), toy_lm(), draft, frozenset())


def turns() -> Verdicts:
    """A conversation whose turns build on the cache of the one before."""
    session = talking()
    found = verify_turns(session, from_session(session), ask(2, 12), None)
    assert found.reused
    return frozenset(
        [report.verdict for report in found.judged] + [problem.verdict for problem in found.problems()]
    )


def nothing_drafted() -> Verdicts:
    coverage = Coverage()
    one = subject()
    watchers = Watchers(events=lambda events, some: coverage.add(events, some, one.rules.eos))
    verify_greedy(one, ask(2, 12), batch_size=1, noise=None, audit=0, watchers=watchers)
    return frozenset({Verdict.EXACT} | {problem.verdict for problem in _vacuous(one, coverage)})


# The law -----------------------------------------------------------------------------------------------------


def sampled(make_drafter: MakeDrafter | None = None, n: int = 48, new: int = 24) -> Verdicts:
    """One pass over many sampled tokens of the tiny pair."""
    draft = None if make_drafter else draft_lm(0.05)
    one = subject(make_drafter, draft=draft, law=HOT, accept="rejection")
    requests = ask(n, new)
    rules = replace(one.rules, batch_size=n)
    measured = SampledLaw()
    target: Any = Watched(one.make_target(n, 64), HOT, 0.0, Drawn(rules.sampler, measured))
    fidelity, claims = Fidelity(one, share=0), Claims(one)
    drafter = claims.watch(fidelity.watch(one.make_drafter(rules.sampler)))
    for _ in decode(target, drafter, requests, rules):
        pass
    verdict = law_verdict(any(test.rejected for test in measured.tests()))
    return verdict | {problem.verdict for problem in (*fidelity.problems(), *claims.problems())}


def enumerated() -> Verdicts:
    grids = [world(4, 2, *HARD["paper"], seed=0), world(4, 1, smooth(4), trimmed(4), seed=1)]
    grids.append(world(4, 1, smooth(4), smooth(4), seed=2, drawn=False))
    return law_verdict(any(distance(accept_module.rejection, grid) > EXACT for grid in grids))


def told_a_little() -> Verdicts:
    """A draft that has only half of the words."""
    return law_verdict(
        any(
            distance(accept_module.rejection, world(4, 1, smooth(4), trimmed(4), seed)) > EXACT
            for seed in range(4)
        )
    )


def told_nan() -> Verdicts:
    """The draft's law is no number at all: then nothing of it may be kept."""
    grid = world(4, 1, smooth(4), smooth(4), seed=0)
    nan = {prefix: torch.full_like(q, float("nan")) for prefix, q in grid.q.items()}
    return law_verdict(distance(accept_module.rejection, grid, shown_q=nan) > EXACT)


P, P_NEXT, Q = (0.25, 0.25, 0.25, 0.25), (0.4, 0.4, 0.1, 0.1), (0.02, 0.02, 0.46, 0.5)


def joint(rows: int = 2500) -> Verdicts:
    """The first two tokens of many rows together, with the engine's own random numbers."""
    p, p_next, q = (torch.tensor(law, dtype=torch.float64) for law in (P, P_NEXT, Q))
    sampler = Sampler(Law(1.0), KeyedDraws())
    blocks: list[list[int]] = [[] for _ in range(rows)]
    scores = torch.stack([p.log(), p_next.log()])
    for at in range(2):
        open_ = [i for i in range(rows) if len(blocks[i]) == at]
        asked = [Row(i, Request((7,), 9, seed=i), [7, *blocks[i]]) for i in open_]
        x = sampler.draws.sample(
            q.expand(len(open_), -1), [Place(one.request.seed, len(one.ids)) for one in asked], Stream.DRAFT
        )
        draft = Draft([[token] for token in x.tolist()], q.expand(len(open_), 1, -1))
        verdict = accept_module.rejection(
            scores.roll(at, 0).expand(len(open_), -1, -1), draft, asked, sampler
        )
        for i, token, kept, bonus in zip(
            open_, x.tolist(), verdict.accepted.tolist(), verdict.bonus.tolist(), strict=True
        ):
            blocks[i] += [*[token][:kept], bonus]
    counts = torch.zeros(4, 4)
    for first, second, *_ in blocks:
        counts[first, second] += 1
    return law_verdict(g_test("joint", counts, torch.outer(p, p_next)).rejected)


def law_verdict(rejected: bool) -> Verdicts:
    return frozenset({Verdict.DISTRIBUTION if rejected else Verdict.EXACT})


def told_chances() -> Verdicts:
    """The run reports how likely each drafted token was."""
    found: set[Verdict] = set()
    for law, accept in ((Law(), "greedy"), (HOT, "coupled")):
        one = subject(law=law, accept=accept)
        found |= greedy(replace(one, rules=replace(one.rules, probabilities=True)), ask(2, 8), 2)
    return frozenset(found)


SCENES: dict[str, Callable[[], Verdicts]] = {
    "draft-model": draft_model,
    "batch": batch,
    "right": right,
    "coin": coin,
    "uneven": uneven,
    "over-long": over_long,
    "penalty": penalty,
    "ends": ends,
    "stops": stops,
    "window": window,
    "ties": ties,
    "fidelity": fidelity,
    "trimmed": trimmed_itself,
    "coupled": coupled,
    "short-draft": short_draft,
    "turns": turns,
    "vacuous": nothing_drafted,
    "sampled": sampled,
    "enumerated": enumerated,
    "told-a-little": told_a_little,
    "told-nan": told_nan,
    "joint": joint,
    "told-chances": told_chances,
}
