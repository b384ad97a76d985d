"""Verification of a session on prompts: one report on everything that was checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from specctl.decode.draft import Parts, Request, build_drafter
from specctl.decode.schedules import DEFAULT, DEFAULT_WINDOW
from specctl.equivalence.case import Cases
from specctl.equivalence.claims import Claims
from specctl.equivalence.context import context
from specctl.equivalence.coverage import Coverage
from specctl.equivalence.drawn import Drawn, judge_law
from specctl.equivalence.fidelity import Fidelity
from specctl.equivalence.greedy import Watchers, draw, verify_greedy
from specctl.equivalence.noise import Noise, calibrate
from specctl.equivalence.reference import decode_plainly
from specctl.equivalence.report import Problem, Report, SequenceReport, Verdict
from specctl.equivalence.rescore import Rescorer
from specctl.equivalence.sampled import SampledLaw
from specctl.equivalence.subject import Subject, from_session
from specctl.equivalence.suite import Prompt
from specctl.equivalence.turns import verify_turns
from specctl.equivalence.verdicts import Tolerance
from specctl.events import Event
from specctl.models.lm import LM
from specctl.models.trimmed import cut, trimmed
from specctl.profile.drafters import AutoParams, Drafter, DraftModelParams, SelfParams
from specctl.session import Session

__all__ = ["Options", "Watchers", "verify", "verify_greedy"]

_SELF_DRAFTED = 2, 12  # prompts and new tokens


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done. `audit` is the share of rounds whose caches are rebuilt, and of drafts made again."""

    max_new_tokens: int
    batch_size: int = 1
    audit: float = 0.1
    noise_positions: int = 2000
    schedule: str = DEFAULT
    window: int = DEFAULT_WINDOW


def verify(
    session: Session,
    prompts: Sequence[Prompt],
    options: Options,
    *,
    judged: Callable[[SequenceReport], None] = lambda report: None,
    models: dict[str, Any] | None = None,
) -> Report:
    """Verify the session's profile on prompts. `judged` is told each sequence as it is done; `models` says which
    files were loaded (`identity.py`), for the report.

    Raises RequestError for a prompt that cannot be encoded or does not fit the context.
    """
    subject = from_session(session)
    rules = replace(subject.rules, schedule=options.schedule, window=options.window)
    subject = replace(subject, rules=rules)
    requests = [_request(session, prompt, options, number) for number, prompt in enumerate(prompts)]
    repeats = _repeats(subject, requests[0])
    problems = [] if repeats else [Problem(Verdict.INCONCLUSIVE, "the reference does not repeat itself here")]

    def noise_of(lm: LM) -> Noise:
        return _noise(session, lm, requests, options)

    noise = noise_of(subject.target) if subject.numerics == "native" else None
    problems += [Problem(Verdict.INCONCLUSIVE, what) for what in [noise and noise.problem] if what]
    coverage, cases, claims = Coverage(), Cases(), Claims(subject)
    greedy, measured = subject.rules.sampler.law.greedy, SampledLaw(session.profile.sampling.seed)
    fidelity = Fidelity(subject, share=options.audit, noise=lambda: noise_of(subject.draft or subject.target))
    sequences = verify_greedy(
        subject,
        requests,
        batch_size=options.batch_size,
        noise=noise,
        audit=options.audit,
        names=[prompt.id for prompt in prompts],
        watchers=Watchers(
            drafter=lambda drafter: cases.watch(
                claims.watch(fidelity.watch(drafter)) if subject.drafts else drafter
            ),
            judged=judged,
            events=lambda events, some: _noted(coverage, cases, events, some, subject.rules.eos),
            drawn=None if greedy else Drawn(subject.rules.sampler, measured),
        ),
    )
    problems += [*_vacuous(subject, coverage), *fidelity.problems(), *claims.problems()]
    problems += [] if noise is None else too_many_ties(sequences, noise)
    whole = subject.draft is not None and not subject.draft.reads
    own = _self_draft(session, subject, requests, noise) if whole else None
    problems += [] if own is None else own.problems()
    tolerance = None if noise is None else Tolerance(noise, Rescorer(subject.target))
    turns = verify_turns(session, subject, requests, tolerance)
    problems += turns.problems()
    sampled, off_law = (None, []) if greedy else _law(subject, requests, options.batch_size, measured)
    problems += off_law
    info = session.info
    return Report(
        profile=session.profile.name,
        target=info.target,
        draft=info.draft,
        settings=_settings(session, options),
        device=info.device,
        dtype=info.dtype,
        numerics=info.numerics,
        guarantee="law" if not subject.comparable else "G2" if info.numerics == "invariant" else "G3",
        sequences=tuple(sequences),
        coverage=coverage.to_json(),
        problems=tuple(problems),
        noise=None if noise is None else asdict(noise),
        fidelity=_fidelity_json(fidelity, claims, own) if subject.drafts else None,
        sampled=sampled,
        turns=turns.to_json(),
        models=models,
        reference_repeats=repeats,
        context=context(subject, requests, sequences),
        case=cases.smallest(session, subject, sequences, options.batch_size, noise),
    )


def _noted(
    coverage: Coverage,
    cases: Cases,
    events: Sequence[Event],
    requests: Sequence[Request],
    eos: frozenset[int],
) -> None:
    coverage.add(events, requests, eos)
    cases.requests.append(requests)


def _self_draft(
    session: Session, subject: Subject, requests: Sequence[Request], noise: Noise | None
) -> Fidelity:
    """The target as its own draft model, its head trimmed like the draft's: what it proposes has to be accepted."""
    lm, model = session.target, session.draft
    params = _asking(session.profile.drafter, in_targets_cache=model is not None and model.twin)
    draft = lm if model is None else replace(lm, twin=model.twin)
    if model is not None and model.kept is not None:
        draft = trimmed(draft, cut(lm, model.kept))
    itself = replace(
        subject,
        make_drafter=lambda sampler: build_drafter(params, Parts(lm, draft, sampler, session.eos)),
        draft=draft,
    )
    fidelity = Fidelity(itself, share=0, noise=None if noise is None else lambda: noise, itself=True)
    prompts, new = _SELF_DRAFTED
    few = [replace(one, max_new_tokens=min(one.max_new_tokens, new)) for one in requests[:prompts]]
    verify_greedy(itself, few, batch_size=1, noise=noise, audit=0, watchers=Watchers(drafter=fidelity.watch))
    return fidelity


def _asking(params: Drafter, *, in_targets_cache: bool) -> Drafter:
    """The settings under which the model is asked in each round: left to themselves, methods that weigh costs never
    ask a draft as slow as the target, and `auto` also proposes what it has looked up, which nobody promises."""
    if not isinstance(params, AutoParams):
        return params.model_copy(update={"draft_tokens": params.most})
    if in_targets_cache:
        return SelfParams(method="self", draft_tokens=params.most)
    return DraftModelParams(method="draft-model", draft_tokens=params.most)


def _law(
    subject: Subject, requests: Sequence[Request], batch_size: int, measured: SampledLaw
) -> tuple[dict[str, Any], list[Problem]]:
    """Every emitted token against the law it has to come from; fresh seeds where that is borderline."""

    def again(fresh: Sequence[Request]) -> SampledLaw:
        more = SampledLaw(fresh[0].seed)
        draw(subject, fresh, batch_size, Drawn(subject.rules.sampler, more))
        return more

    return judge_law(measured, requests, again)


def _fidelity_json(fidelity: Fidelity, claims: Claims, own: Fidelity | None) -> dict[str, Any]:
    itself = None if own is None else {"drafted": own.drafted, "accepted": own.accepted}
    return {**fidelity.to_json(), "redrawn": claims.redrawn, "self_draft": itself}


def _request(session: Session, prompt: Prompt, options: Options, number: int) -> Request:
    profile = session.profile
    raw = prompt.raw or not session.tokenizer.chat_template
    ids = session.encode(prompt.text, system=None if raw else profile.system, raw=raw)
    most = min(options.max_new_tokens, prompt.max_new_tokens or options.max_new_tokens)
    # A seed of its own: prompts that share their random numbers would not be independent samples.
    return Request(ids, most, profile.sampling.seed + number, (*profile.stop, *prompt.stop))


def _noise(session: Session, lm: LM, requests: Sequence[Request], options: Options) -> Noise:
    """Measured on the prompts themselves, with the block sizes that drafts of this profile lead to."""
    longest = max(session.profile.drafter.most, 1)
    return calibrate(
        lm,
        [request.prompt for request in requests],
        Rescorer(lm),
        blocks=sorted({2, longest + 1}),
        rows=options.batch_size,
        positions=options.noise_positions,
    )


def too_many_ties(sequences: Sequence[SequenceReport], noise: Noise) -> Iterator[Problem]:
    """The budget of ties: a systematic error must not hide among them."""
    ties = sum(two.certified for one in sequences for two in one.divergences)
    positions = sum(len(one.tokens) for one in sequences)
    most = noise.most_ties(positions)
    if ties > most:
        yield Problem(Verdict.SUSPECT, f"{ties} ties in {positions} tokens; chance explains {most} at most")


def _settings(session: Session, options: Options) -> dict[str, Any]:
    profile = session.profile
    return {
        "method": profile.drafter.method,
        "drafter": profile.drafter.model_dump(),
        "accept": session.info.accept,
        "sampling": profile.sampling.model_dump(),
        "row_floor": session.target.row_floor,
        "numerics_note": session.info.numerics_note,
        **asdict(options),
    }


def _repeats(subject: Subject, request: Request) -> bool:
    """A reference that does not repeat itself bit for bit is none."""
    few = replace(request, max_new_tokens=min(request.max_new_tokens, 4))
    one, other = (decode_plainly(subject.target, few, subject.rules) for _ in range(2))
    return [sight.digest for sight in one.sights] == [sight.digest for sight in other.sights]


def _vacuous(subject: Subject, coverage: Coverage) -> Iterator[Problem]:
    if not subject.drafts:
        return
    if not coverage.drafted:
        yield Problem(Verdict.DRAFT_DEGRADED, "the profile drafts, but no token was ever drafted")
    elif coverage.vacuous:
        what = "rejected" if coverage.accepted else "accepted"
        yield Problem(Verdict.INCONCLUSIVE, f"no drafted token was ever {what}, so little was exercised")
