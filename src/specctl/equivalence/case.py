"""The smallest failing case of a run, and its replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate

from specctl.decode.draft import Drafter, Request
from specctl.equivalence.context import context
from specctl.equivalence.coverage import Coverage
from specctl.equivalence.noise import Noise, calibrate
from specctl.equivalence.report import Report, SequenceReport
from specctl.equivalence.rescore import Rescorer
from specctl.equivalence.shrink import shrink
from specctl.equivalence.subject import Subject, from_session
from specctl.equivalence.tape import Recorder, Tape, replay
from specctl.profile.schema import effective
from specctl.session import Session


@dataclass(slots=True)
class Cases:
    """Notes what every `decode` call was asked and what was proposed in it."""

    recorder: Recorder = field(default_factory=Recorder)
    requests: list[Sequence[Request]] = field(default_factory=list)

    def watch(self, drafter: Drafter) -> Drafter:
        return self.recorder.watch(drafter)

    def smallest(
        self,
        session: Session,
        subject: Subject,
        sequences: Sequence[SequenceReport],
        batch_size: int,
        noise: Noise | None,
    ) -> Tape | None:
        """The first violation, shrunk for a minute at most; None without one, or if it does not repeat."""
        failing = next((i for i, one in enumerate(sequences) if one.verdict.violation), None)
        if failing is None:
            return None
        ends = list(accumulate(len(some) for some in self.requests))
        call = next(i for i, end in enumerate(ends) if failing < end)
        verdict = sequences[failing].verdict
        tape = Tape(
            profile=effective(session.profile),
            verdict=verdict.value,
            row=failing - (ends[call] - len(self.requests[call])),
            batch_size=batch_size,
            requests=tuple(self.requests[call]),
            drafts=self.recorder.calls[call],
            schedule=subject.rules.schedule,
            window=subject.rules.window,
        )

        def fails(case: Tape) -> bool:
            return replay(case, subject, noise).verdict is verdict

        return shrink(tape, fails) if fails(tape) else None


def verify_case(session: Session, tape: Tape) -> Report:
    """Replay a recorded case on a session for its profile; the draft model is not needed."""
    subject = from_session(session)
    noise = None
    if subject.numerics == "native":
        texts = [request.prompt for request in tape.requests]
        longest = max((len(draft) for draft in tape.drafts.values()), default=1)
        noise = calibrate(
            subject.target,
            texts,
            Rescorer(subject.target),
            blocks=sorted({2, longest + 1}),
            rows=tape.batch_size,
            positions=300,
        )
    sequence = replay(tape, subject, noise)
    info = session.info
    return Report(
        profile="replay",
        target=info.target,
        draft=None,
        settings={"method": "none", "recorded_verdict": tape.verdict, "batch_size": tape.batch_size},
        device=info.device,
        dtype=info.dtype,
        numerics=info.numerics,
        guarantee="law" if not subject.comparable else "G2" if info.numerics == "invariant" else "G3",
        sequences=(sequence,),
        coverage=Coverage().to_json(),
        noise=None if noise is None else asdict(noise),
        context=context(subject, [tape.requests[tape.row]], [sequence]),
    )
