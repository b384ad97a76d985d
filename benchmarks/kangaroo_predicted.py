"""What an acceptance promises on Vicuna-7B: arithmetic over the bytes read, nothing measured.

    python benchmarks/kangaroo_predicted.py [ACCEPTANCE ...] [--exit 2] [--head 32000]

A step reads each weight it uses once, and time goes with what is read. A round of k drafts reads the first layers
k + 1 times, adapter and drafting head k times, the other layers and the head once; plain decoding reads all once.
"""

from __future__ import annotations

import argparse

from specctl.training import predict

LAYERS, HIDDEN, MLP, VOCABULARY = 32, 4096, 11008, 32000
LAYER = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * MLP
ADAPTER = 4 * HIDDEN * HIDDEN + 2 * HIDDEN


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("acceptance", type=float, nargs="*", default=[0.3, 0.4, 0.5, 0.6, 0.7])
    parser.add_argument("--exit", type=int, default=2)
    parser.add_argument("--head", type=int, default=VOCABULARY, help="tokens of the drafting head")
    args = parser.parse_args()

    shallow, head = args.exit * LAYER, VOCABULARY * HIDDEN
    costs = predict.Costs(
        plain=LAYERS * LAYER + head,
        shallow=shallow,
        adapter=ADAPTER + args.head * HIDDEN,
        deep=LAYERS * LAYER + head - shallow,
    )
    print(f"adapter {ADAPTER / 1e6:.0f}M parameters, a drafted token reads ", end="")
    print(f"{(costs.shallow + costs.adapter) / costs.plain:.1%} of what plain decoding reads")
    for acceptance in args.acceptance:
        drafted, speed = predict.best(costs, acceptance)
        print(f"acceptance {acceptance:.1%}: predicted {speed:.2f} x with {drafted} drafted")


if __name__ == "__main__":
    main()
