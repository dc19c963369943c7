"""Where a system is good and where not: records grouped by how much train knows of their user or item."""

# N records · U users or items

from typing import NamedTuple

import numpy as np


class Group(NamedTuple):
    """Some of the records."""

    label: str
    rows: np.ndarray


def by_train_records(count_N: np.ndarray, parts: int = 4) -> list[Group]:
    """From cold to warm: `count_N` are the train records of each record's user (or item).

    Those without any are a group of their own; the others are cut into `parts` of about equal size, fewer where many
    have the same count, since equal counts stay together.
    """
    groups = [Group("no train record", np.flatnonzero(count_N == 0))]
    warm_N = np.sort(count_N[count_N > 0])
    if len(warm_N):
        edges = np.unique([warm_N[min(len(warm_N) * part // parts, len(warm_N) - 1)] for part in range(parts)])
        ends = [*(edges[1:] - 1), warm_N[-1]]
        for low, high in zip(edges.tolist(), ends, strict=True):
            label = f"{low:,} to {int(high):,} train records" if low < high else f"{low:,} train records"
            groups.append(Group(label, np.flatnonzero((count_N >= low) & (count_N <= high))))
    return [group for group in groups if len(group.rows)]
