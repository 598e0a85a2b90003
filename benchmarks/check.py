"""Check that a new `ulcodec bench` is not worse than an earlier one on the same pictures.

    python -m benchmarks.check report/results.json earlier/results.json

Rate: ulcodec's BD-rate (PSNR) against its own earlier curve. Time: CPU time divided by that of WebP in the same run,
since machines differ, against the same quotient in the earlier run.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ulcodec.bench.curves import bd_row
from ulcodec.bench.peers import OURS
from ulcodec.bench.report import curve_of

REFERENCE = "webp"
MAX_BD_RATE_PERCENT = 0.5
MAX_TIME_RATIO = 1.5


def relative_time(report: Mapping[str, Any], measure: str) -> float:
    """Time of ulcodec relative to the reference codec, on the smallest picture."""
    times = {row["codec"]: row[measure] for row in reversed(report["speed"]) if measure in row}
    return float(times[OURS] / times[REFERENCE])


def failures(new: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Describe what is worse by more than the noise. Raises KeyError if a run lacks a compared figure."""
    lines = []
    row = bd_row("earlier", curve_of(earlier["curves"][OURS]), curve_of(new["curves"][OURS]))
    if row["bd_rate_percent"] is None or row["bd_rate_percent"] > MAX_BD_RATE_PERCENT:
        lines.append(f"BD-rate against the earlier curve: {row['bd_rate_percent']} %")
    for measure in ("encode_cpu_ms", "decode_cpu_ms"):
        ratio = relative_time(new, measure) / relative_time(earlier, measure)
        if ratio > MAX_TIME_RATIO:
            lines.append(f"{measure}, beside {REFERENCE}'s: {ratio:.2f} times what it was")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("new", type=Path, help="results.json of a run")
    parser.add_argument("earlier", type=Path, help="results.json to compare it with")
    options = parser.parse_args()
    try:
        new, earlier = (json.loads(path.read_text()) for path in (options.new, options.earlier))
        lines = failures(new, earlier)
    except KeyError as error:
        sys.exit(f"error: a report lacks what is compared: {error} (times need --sizes)")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines) or "no worse")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
