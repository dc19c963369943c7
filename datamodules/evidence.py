"""What the rating stage hands on: node states, predicted ratings and candidate concepts, for every record.

F folds (0 is the whole train graph, f >= 1 the graph without fold f), N nodes, D width, R records, K candidates.
A train record reads everything from the fold it is left out with, so that it never meets what it itself wrote.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.candidates import FREQUENT, KINDS, OF_ITEM, OF_USER, SHARED, Candidate
from datamodules.corpus import Corpus
from metrics.errors import InputError


@dataclass(frozen=True)
class Evidence:
    """The rating stage's product, as tensors."""

    users_FND: Tensor
    items_FND: Tensor
    fold_R: Tensor
    predicted_R: Tensor  # clipped to the rating scale
    sentiment_R: Tensor  # -1, 0, 1, from predicted_R
    concept_RK: Tensor
    polarity_RK: Tensor
    score_RK: Tensor
    kind_RK: Tensor
    via_RK: Tensor

    def save(self, path: Path) -> None:
        """Writes one safetensors file."""
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        """Reads what `save` wrote."""
        if not path.is_file():
            raise InputError(f"{path}: the rating stage has left no evidence here; run stage=rating first")
        return cls(**load_file(path))

    def candidates(self, record: int) -> list[Candidate]:
        """C_uv of a record, best first."""
        columns = (self.concept_RK, self.polarity_RK, self.score_RK, self.kind_RK, self.via_RK)
        rows = zip(*(column[record].tolist() for column in columns), strict=True)
        return [Candidate(*row) for row in rows]

    def with_rows_of(
        self, other: "Evidence", rows: list[int | None], new_users: list[int], new_items: list[int]
    ) -> "Evidence":
        """This evidence, in which record i is replaced by `other`'s record `rows[i]` where that is given.

        States are `other`'s, of all its folds; those of nodes that only this evidence knows, or knows better
        (`new_users`, `new_items`), are this one's, which has a single fold.
        """
        mine = [i for i, row in enumerate(rows) if row is not None]
        theirs = [row for row in rows if row is not None]
        columns = {}
        for field in fields(self):
            column = getattr(self, field.name).clone()
            if field.name.endswith(("_R", "_RK")):
                column[mine] = getattr(other, field.name)[theirs].to(column.dtype)
            columns[field.name] = column
        columns["users_FND"] = _with_new_states(other.users_FND, self.users_FND, new_users)
        columns["items_FND"] = _with_new_states(other.items_FND, self.items_FND, new_items)
        return Evidence(**columns)

    def states(self, records: Tensor, corpus: Corpus) -> tuple[Tensor, Tensor]:
        """(user [B, D], item [B, D]) states of records, each from the fold it is left out with."""
        fold_B, rows = self.fold_R[records].long(), records.numpy()
        users = torch.from_numpy(corpus.user_R[rows].astype("int64"))
        items = torch.from_numpy(corpus.item_R[rows].astype("int64"))
        return self.users_FND[fold_B, users], self.items_FND[fold_B, items]


def _with_new_states(old_FND: Tensor, fresh_1ND: Tensor, new: list[int]) -> Tensor:
    """The states of `old_FND`, behind them and at `new` those of `fresh_1ND`."""
    folds, known, _ = old_FND.shape
    states = torch.cat([old_FND, fresh_1ND[:, known:].expand(folds, -1, -1)], dim=1)
    states[:, new] = fresh_1ND[:, new].expand(folds, -1, -1)
    return states


def stack_candidates(rows: list[list[Candidate]]) -> dict[str, Tensor]:
    """The columns [R, K] of `Evidence` from lists of equal length."""
    return {
        "concept_RK": torch.tensor([[c.concept for c in row] for row in rows], dtype=torch.int32),
        "polarity_RK": torch.tensor([[c.polarity for c in row] for row in rows], dtype=torch.int8),
        "score_RK": torch.tensor([[c.score for c in row] for row in rows], dtype=torch.float32),
        "kind_RK": torch.tensor([[c.kind for c in row] for row in rows], dtype=torch.int8),
        "via_RK": torch.tensor([[c.via_item for c in row] for row in rows], dtype=torch.int32),
    }


def describe(candidate: Candidate, user: int, item: int, corpus: Corpus) -> dict:
    """A candidate as predictions hold it: {concept, polarity, score, kind, path}, the path in the original ids."""
    name, user_id, item_id = corpus.concepts[candidate.concept], corpus.users[user], corpus.items[item]
    if candidate.kind == SHARED:
        path = [user_id, name, item_id]
    elif candidate.kind == OF_ITEM:
        path = [name, item_id]
    elif candidate.kind == OF_USER:
        path = [user_id, name]
    elif candidate.kind == FREQUENT:
        path = [name]
    else:
        path = [user_id, corpus.items[candidate.via_item], name, item_id]
    return {
        "concept": name,
        "polarity": candidate.polarity,
        "score": round(candidate.score, 6),
        "kind": KINDS[candidate.kind],
        "path": path,
    }
