"""What `verify-equivalence` costs against plain decoding of the same prompts, and which parts cost most.

CPU time of one process, so that a busy machine spoils little:
    python benchmarks/verify_cost.py default --quick
    python benchmarks/verify_cost.py draft-model --quick --numerics native
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from collections.abc import Callable
from time import process_time
from typing import Any

from specctl.cli import choice, ready
from specctl.decode.draft import Request
from specctl.equivalence import suite
from specctl.equivalence.verify import Options, verify
from specctl.profile import override, read
from specctl.profile.schema import Profile
from specctl.session import Session

PARTS = {
    "reference": ("reference.py", "decode_plainly"),
    "the run itself, watched": ("greedy.py", "_run"),
    "  of it: drafts made again": ("remade.py", "compare"),
    "  of it: caches rebuilt": ("watch.py", "_rebuild"),
    "  of it: digests of logits": ("sight.py", "look"),
    "the target as its own draft": ("verify.py", "_self_draft"),
    "calibrating noise": ("noise.py", "calibrate"),
}


def opened(name: str, changes: dict[str, Any]) -> Session:
    profile: Profile = override.merge(read.load(name), changes)
    chosen = choice.choose(profile)
    folders = ready.find_or_fetch(chosen, offline=True, unasked=False, quiet=True)
    return ready.open_session(profile, chosen, folders, "")


def timed(work: Callable[[], object]) -> float:
    begun = process_time()
    work()
    return process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--pair")
    parser.add_argument("--numerics", choices=["invariant", "native"], default="invariant")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    changes = {"numerics": args.numerics, **({"pair": args.pair} if args.pair else {})}
    session = opened(args.profile, changes)
    prompts = suite.builtin(quick=args.quick)
    amount = Options(20 if args.quick else 48, noise_positions=300 if args.quick else 2000)

    pair = session.profile.pair
    plain = opened("plain", {"numerics": args.numerics, **({"pair": pair} if pair else {})})
    requests = [
        Request(
            plain.encode(one.text, system=None, raw=one.raw),
            min(amount.max_new_tokens, one.max_new_tokens or amount.max_new_tokens),
            stop=one.stop,
        )
        for one in prompts
    ]
    list(plain.generate(requests[:1]))
    plain_s = timed(lambda: list(plain.generate(requests)))
    profiler = cProfile.Profile(process_time)
    verify_s = timed(lambda: profiler.runcall(verify, session, prompts, amount))
    print(f"{args.profile}, {pair}, {session.info.dtype} {session.info.numerics}, {len(prompts)} prompts")
    print(f"plain decoding {plain_s:.1f} s, verifying {verify_s:.1f} s: {verify_s / plain_s:.2f} x")
    found = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    for title, (file, function) in PARTS.items():
        spent = sum(row[3] for key, row in found.items() if key[0].endswith(file) and key[2] == function)
        print(f"{title:30} {spent:6.1f} s")


if __name__ == "__main__":
    main()
