"""What the peers' scripts share: read points from stdin, time a peer on them, print one JSON object.

The scripts run in the peers' own environments, with nothing of perfsim there.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

__all__ = ["report"]


def report(package: str, makespan_s: Callable[[int, int], float]) -> None:
    """Time a peer's evaluation of all points, the least of some runs after one point to warm up.

    Imports and the making of what all points share are over by now, so they do not count.
    """
    asked = json.load(sys.stdin)
    points = asked["points"]
    largest = max(points)
    makespan_s(*largest)
    times = []
    for _ in range(asked["repeats"]):
        began = time.process_time()
        predicted_s = [makespan_s(batch, sequence) for batch, sequence in points]
        times.append(time.process_time() - began)
    if not all(0 < seconds < math.inf for seconds in predicted_s):
        message = f"{package} gives no time for some of the points"
        raise ValueError(message)
    reply = {
        "seconds": min(times),
        "version": version(package),
        "points": len(predicted_s),
        "named_point": largest,
        "named_point_s": predicted_s[points.index(largest)],
    }
    print(json.dumps(reply))
