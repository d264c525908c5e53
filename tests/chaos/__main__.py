"""`python -m tests.chaos`: kills everything again and again while a Task reports, and counts. See docs/chaos.md."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos import plan
from tests.chaos.chaos import Chaos, Wanted
from tests.chaos.parties import Failed, Parties


def main() -> int:
    """The exit status: 0 if nothing was lost or doubled, else 1."""
    options = _parser().parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    wanted = Wanted(options.seconds, options.events, options.ranks, seed)
    _say(f"chaos: seed {seed}; {wanted.events:,} events of {wanted.ranks} ranks in {wanted.seconds:g} s")
    _say("plan:  " + ", ".join(f"{n} x {what}" for what, n in plan.counted(plan.plan(seed, wanted.seconds)).items()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scratch = Path(tempfile.mkdtemp(prefix="theorbo-chaos-"))
    parties = Parties(scratch)
    try:
        wrong = Chaos(wanted, parties, _say).perform()
    except (Failed, AssertionError) as error:
        wrong = [str(error)]
    except KeyboardInterrupt:
        wrong = ["interrupted"]
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        parties.end()
    if wrong and wrong != ["interrupted"]:
        _show_logs(scratch)
    if options.keep:
        _say(f"everything is kept in {scratch}")
    else:
        shutil.rmtree(scratch)
    for words in wrong:
        _say(f"wrong: {words}")
    _say("chaos: ok" if not wrong else f"chaos: {len(wrong)} things are wrong; seed {seed}")
    return int(bool(wrong))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, metavar="S", help="how long the ranks report")
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="of all ranks together")
    parser.add_argument("--ranks", type=int, default=4, metavar="N")
    parser.add_argument("--seed", type=int, metavar="N", help="of the plan; without it another one each time")
    parser.add_argument("--keep", action="store_true", help="keep journal, logs and outputs")
    return parser


def _show_logs(scratch: Path) -> None:
    for file in sorted([*scratch.glob("*.err"), *scratch.glob("*.log"), *scratch.glob("spool_root/*/*/*.log")]):
        with contextlib.suppress(OSError):
            lines = file.read_text(errors="replace").splitlines()
            _say(f"--- {file.relative_to(scratch)}, {len(lines)} lines")
            for line in lines[-20:]:
                _say(line[:300])


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
