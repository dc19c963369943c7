"""Self-BLEU: BLEU-4 of each text against all the others (Texygen), with its values without each text.

Leaving a text out matters to few others: of the n-grams that clip a match, to the text that shares the highest count;
of the lengths, where it alone has the closest one. So the jackknife is exact and its time linear, too.
"""

# N texts · T types of n-grams · C occurrences: a type and a text that has it · P pairs: a text, and one left out

import numpy as np

from metrics.families import Jackknife
from metrics.words import Words, ngrams_up_to

ORDERS = 4
NLTK_EPSILON = 0.1  # of NLTK's smoothing method1, which Texygen's self-BLEU uses


def self_bleu(words: Words) -> Jackknife | None:
    """Mean over texts, in percent (NLTK's sentence BLEU, method1), and without each; None for fewer than two texts.

    An n-gram is clipped to its highest count in any other text; the closest length is that among the others.
    """
    n, length_N = len(words.lengths_T), words.lengths_T
    if n < 2:
        return None
    matches_NO, losses = np.zeros((n, ORDERS)), []
    for place, grams in enumerate(ngrams_up_to(ORDERS, words)):
        matches_NO[:, place], pairs_2P, lost_P = _clipped_by_others(grams.types_G.astype(np.int64), grams.texts_G, n)
        losses.append((pairs_2P, np.full(len(lost_P), place), lost_P))
    closest_N, changed = _closest_other_lengths(length_N)
    value_N = _scores(matches_NO, length_N, closest_N)
    if n == 2:
        return Jackknife("self_bleu", float(value_N.mean()), np.full(n, value_N.mean()), 100.0)
    text, left = np.concatenate([*(pairs_2P for pairs_2P, _, _ in losses), np.stack(changed[:2])], axis=1)
    key, pair = np.unique(text * n + left, return_inverse=True)
    text_P, left_P, clipped = key // n, key % n, len(text) - len(changed[0])
    order, lost = (np.concatenate(parts) for parts in list(zip(*losses, strict=True))[1:])
    less_PO = np.bincount(pair[:clipped] * ORDERS + order, lost, len(key) * ORDERS).reshape(-1, ORDERS)
    closest_P = closest_N[text_P]
    closest_P[pair[clipped:]] = changed[2]
    new_P = _scores(matches_NO[text_P] - less_PO, length_N[text_P], closest_P)
    moved_N = np.bincount(left_P, new_P - value_N[text_P], n)
    without_N = (value_N.sum() - value_N + moved_N) / (n - 1)
    return Jackknife("self_bleu", float(value_N.mean()), without_N, 100.0)


def _scores(matches_PO: np.ndarray, length_P: np.ndarray, closest_P: np.ndarray) -> np.ndarray:
    counts_PO = np.maximum(length_P[:, None] - np.arange(ORDERS), 1)
    log_P = np.log(np.where(matches_PO == 0, NLTK_EPSILON, matches_PO) / counts_PO).mean(axis=1)
    brevity_P = np.minimum(0.0, 1 - closest_P / np.maximum(length_P, 1))
    return np.where(matches_PO[:, 0] == 0, 0.0, 100 * np.exp(log_P + brevity_P))


def _clipped_by_others(type_G: np.ndarray, text_G: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(matches_N, pairs_2P, lost_P): n-grams of each text that others have; what a text loses without another one.

    Only the two texts that have a type most often lose anything without each other: what the second has beyond the
    third.
    """
    key, count_C = np.unique(type_G * n + text_G, return_counts=True)
    order = np.lexsort((-count_C, key // n))
    type_C, text_C, count_C = key[order] // n, key[order] % n, count_C[order]
    first = np.flatnonzero(np.diff(type_C, prepend=-1))
    ends = np.append(first[1:], len(type_C))
    second_T, third_T = (
        np.where(first + place < ends, count_C[np.minimum(first + place, len(count_C) - 1)], 0) for place in (1, 2)
    )
    # the text that has a type most often sees the second count; with a tie the two are equal
    clip_C = np.repeat(count_C[first], ends - first)
    clip_C[first] = second_T
    matches_N = np.bincount(text_C, np.minimum(count_C, clip_C), n)
    loses = second_T > third_T
    one, other = text_C[first[loses]], text_C[first[loses] + 1]
    pairs_2P = np.stack([np.concatenate([one, other]), np.concatenate([other, one])])
    return matches_N, pairs_2P, np.tile((second_T - third_T)[loses], 2)


def _closest_other_lengths(length_N: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """closest_N, and (text_P, left_P, closest_P) where leaving out a text changes it."""
    lengths, count = np.unique(length_N, return_counts=True)
    closest = _closest(lengths, count)
    changed = [np.zeros((3, 0), dtype=np.int64)]
    # a length that three texts have stays another's without one of them
    for left in np.flatnonzero(count[np.searchsorted(lengths, length_N)] <= 2):
        fewer = _closest(lengths, count - (lengths == length_N[left]))
        for length in (length for length in fewer if fewer[length] != closest[length]):
            texts = np.flatnonzero(length_N == length)
            texts = texts[texts != left]
            changed.append(np.stack([texts, np.full_like(texts, left), np.full_like(texts, fewer[length])]))
    text_P, left_P, closest_P = np.concatenate(changed, axis=1)
    return np.array([closest[length] for length in length_N.tolist()]), (text_P, left_P, closest_P)


def _closest(lengths: np.ndarray, count: np.ndarray) -> dict[int, int]:
    """Length -> the closest length of another text; of two equally close the smaller; itself where there is none."""
    kept = lengths[count > 0].tolist()
    found = {}
    for place, length in enumerate(kept):
        beside = [*kept[max(place - 1, 0) : place], *kept[place + 1 : place + 2]]
        others = [length] if count[lengths == length][0] > 1 else beside
        found[length] = min(((abs(other - length), other) for other in others), default=(0, length))[1]
    return found
