"""Raw reviews of Yelp's size and skew (LLM2ER: 27,147 users, 18,172 items, 1,189,056 explanations), made up.

    python benchmarks/yelp_like.py records=1189056 kind=explanations out=/tmp/yelp.jsonl

kind=explanations: lines in the NLG4RS layout, 7,340 features; kind=reviews: lines in Yelp's own layout, 90 words each.
Users and items follow a power law whose largest has about a thousand times the records of the smallest. Same arguments,
same bytes.
"""

import json
import sys
from pathlib import Path

import numpy as np

USERS, ITEMS, FEATURES, RECORDS = 27_147, 18_172, 7_340, 1_189_056
JUDGING = {
    1: ["good", "great", "excellent", "friendly", "fresh", "amazing", "nice", "perfect", "tasty", "comfortable"],
    -1: ["bad", "awful", "terrible", "rude", "stale", "poor", "disappointing", "horrible", "dirty", "boring"],
}
FRAMES = (
    "the {feature} was {opinion} and we will come back for it .",
    "{opinion} {feature} , just what we had hoped for on a sunday .",
    "i thought that the {feature} here is really {opinion} .",
    "my friends and i agree that their {feature} is {opinion} every single time .",
)
FILLING = (
    "we went there on a friday night with some friends from out of town .",
    "it took a while until somebody came to our table .",
    "parking is on the street behind the building .",
    "i had read about this place before and wanted to try it .",
    "they are open until ten and take cards .",
)


def names(number: int, seed: int) -> list[str]:
    """Distinct made-up words of two to four syllables; some of two words."""
    rng = np.random.default_rng(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "ar", "en", "il")]
    found: dict[str, None] = {}
    while len(found) < number:
        word = "".join(rng.choice(syllables, size=int(rng.integers(2, 5))))
        found[word if rng.random() < 0.7 else f"{word} {rng.choice(syllables)}{rng.choice(syllables)}"] = None
    return list(found)


def pairs(records: int, users: int, items: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct (user, item) [records, 2] by a power law on both sides, each user and item at least once if it fits."""
    weight_U = np.arange(1, users + 1) ** -0.7
    weight_I = np.arange(1, items + 1) ** -0.7
    found = np.concatenate([np.arange(users) * items + rng.integers(0, items, users)])
    while len(found) < records:
        user = rng.choice(users, size=records, p=weight_U / weight_U.sum())
        item = rng.choice(items, size=records, p=weight_I / weight_I.sum())
        found = np.unique(np.concatenate([found, user * items + item]))
    chosen = rng.permutation(found)[:records]
    return np.stack([chosen // items, chosen % items], axis=1)


def write(records: int, kind: str, out: Path, seed: int = 0) -> None:
    """Writes the lines; with fewer records there are fewer users, items and features, in proportion."""
    rng = np.random.default_rng(seed)
    share = min(1.0, records / RECORDS)
    users, items = max(50, int(USERS * share)), max(50, int(ITEMS * share))
    feature_names = names(max(50, int(FEATURES * share)), seed)
    weight_F = np.arange(1, len(feature_names) + 1) ** -0.8
    feature_R = rng.choice(len(feature_names), size=records, p=weight_F / weight_F.sum())
    rating_R = rng.choice(5, size=records, p=(0.1, 0.08, 0.12, 0.25, 0.45)) + 1
    word_R, frame_R = rng.integers(0, 10, records), rng.integers(0, len(FRAMES), records)
    day_R = rng.integers(0, 3650, records)
    with out.open("w", encoding="utf-8") as file:
        for row, (user, item) in enumerate(pairs(records, users, items, rng).tolist()):
            rating, sign = int(rating_R[row]), 1 if rating_R[row] > 3 else -1
            feature, opinion = feature_names[feature_R[row]], JUDGING[sign][word_R[row]]
            sentence = FRAMES[frame_R[row]].format(feature=feature, opinion=opinion)
            line = {"user": f"user-{user:06d}-of-yelp", "item": f"item-{item:06d}-of-yelp", "rating": rating}
            if kind == "explanations":
                line |= {"feature": feature, "opinion": opinion, "sentence": sentence, "sentiment": sign}
            else:
                filling = [FILLING[(row + step) % len(FILLING)] for step in range(6)]
                second = FRAMES[(frame_R[row] + 1) % 4].format(
                    feature=feature_names[feature_R[row - 1]], opinion=JUDGING[sign][word_R[row - 1]]
                )
                line = {
                    "user_id": line["user"],
                    "business_id": line["item"],
                    "stars": float(rating),
                    "text": " ".join([*filling[:3], sentence, *filling[3:], second]),
                    "date": str(np.datetime64("2012-01-01") + int(day_R[row])),
                }
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    write(int(given.get("records", RECORDS)), given.get("kind", "explanations"), Path(given["out"]))
