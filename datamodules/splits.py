"""Which records are train, valid and test, and who is known from train.

Shape suffix: R records.
"""

import numpy as np

from datamodules.corpus import SPLITS
from datamodules.records import NO_SPLIT, NO_TIME, Records
from metrics.errors import InputError

TRAIN, VALID, TEST = range(len(SPLITS))


def split_records(records: Records, kind: str, seed: int, file: str) -> tuple[np.ndarray, str]:
    """(index into SPLITS [R] int8, how it was made): as given by the records, else `kind` (random or last_out)."""
    if records.split_R[0] != NO_SPLIT:
        return records.split_R, "given"
    if kind == "last_out":
        return leave_last_out(records, file), kind
    return random_splits(records, seed), kind


def random_splits(records: Records, seed: int) -> np.ndarray:
    """8:1:1, every user and item at least once in train.

    The NLG4RS rule: in random order, the first record of a user or an item goes to train, whatever the shares.
    Of the others, as many as fill the shares of valid and test go there. Does not depend on the order of `records`.
    """
    by_name = np.lexsort((name_ranks(records.items)[records.item_R], name_ranks(records.users)[records.user_R]))
    order = by_name[np.random.default_rng(seed).permutation(len(records))]
    first = np.zeros(len(order), dtype=bool)
    for column in (records.user_R, records.item_R):
        first[np.unique(column[order], return_index=True)[1]] = True
    free = order[~first]
    share = min(len(records) // 10, len(free) // 2)
    split_R = np.full(len(records), TRAIN, dtype=np.int8)
    split_R[free[:share]] = VALID
    split_R[free[share : 2 * share]] = TEST
    return split_R


def leave_last_out(records: Records, file: str) -> np.ndarray:
    """Of each user the last record in time is test, the one before it valid, if at least one is left for train.

    Records of the same second keep the order of the file. Raises InputError where a record has no time.
    """
    without = np.flatnonzero(records.time_R == NO_TIME)
    if len(without):
        raise InputError(
            f"{file}:{records.line_R[without[0]]}: has no time, which split=last_out needs; use split=random."
        )
    order = np.lexsort((np.arange(len(records)), records.time_R, records.user_R))
    count_U = np.bincount(records.user_R)
    end_U = np.cumsum(count_U)
    split_R = np.full(len(records), TRAIN, dtype=np.int8)
    split_R[order[end_U[count_U >= 2] - 1]] = TEST
    split_R[order[end_U[count_U >= 3] - 2]] = VALID
    return split_R


def cold(records: Records, split_R: np.ndarray) -> dict[str, list[str]]:
    """The users and items that no train record holds, by name."""
    found = {}
    for kind, names, column in (("users", records.users, records.user_R), ("items", records.items, records.item_R)):
        unseen = np.setdiff1d(column, column[split_R == TRAIN])
        found[kind] = sorted(names[code] for code in unseen.tolist())
    return found


def warmed(records: Records, split_R: np.ndarray) -> np.ndarray:
    """The split, in which a user or an item without a train record gets its first record moved to train."""
    split_R = split_R.copy()
    for column in (records.user_R, records.item_R):
        unseen = np.setdiff1d(column, column[split_R == TRAIN])
        codes, first = np.unique(column, return_index=True)
        split_R[first[np.isin(codes, unseen)]] = TRAIN
    return split_R


def name_ranks(names: list[str]) -> np.ndarray:
    """The place of each name in alphabetical order (of code points)."""
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return ranks
