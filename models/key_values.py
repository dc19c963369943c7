"""Reading new tokens behind what a key-value cache holds.

R rows, N new tokens of each, S places of the cache, W width of the model.
"""

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GPT2Model
from transformers.cache_utils import DynamicLayer

from models.gpt2 import last_state
from models.language_model import sees_all, trunk_of


class RoomyLayer(DynamicLayer):
    """Keys and values [R, heads, length, width] written into room that is made once, where DynamicLayer copies all."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.length = room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple:
        """Appends, and returns all of it so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [s.new_empty(*s.shape[:2], self.room, s.shape[3]) for s in (key_states, value_states)]
        end = self.length + key_states.shape[2]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, self.length : end] = new
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the given rows, in their order; a row may come several times."""
        self._room = [room.index_select(0, indices) for room in self._room]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (room[:, :, : self.length] for room in self._room)


class FixedLayer(DynamicLayer):
    """Keys and values [R, heads, S, width] of which nothing moves or grows, as a CUDA graph wants it.

    New ones are written at `place_N`, a tensor that others count on; all S places are returned.
    """

    def __init__(self, places: int, place_N: Tensor) -> None:
        super().__init__()
        self.places, self.place_N = places, place_N

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple:
        """Writes the new tokens' and returns all."""
        self._make(key_states, value_states, len(key_states))
        self.keys.index_copy_(2, self.place_N, key_states)
        self.values.index_copy_(2, self.place_N, value_states)
        return self.keys, self.values

    def begin_with(self, layer: "FixedLayer", row_R: Tensor) -> None:
        """Takes over what the given rows of another layer hold, in its places."""
        self._make(layer.keys, layer.values, len(row_R))
        self.keys[:, :, : layer.places] = layer.keys[row_R]
        self.values[:, :, : layer.places] = layer.values[row_R]

    def _make(self, keys: Tensor, values: Tensor, rows: int) -> None:
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            self.keys, self.values = (s.new_zeros(rows, s.shape[1], self.places, s.shape[3]) for s in (keys, values))


def new_cache(lm: nn.Module, room: int) -> Cache:
    """An empty cache for a prompt and what is read behind it, `room` tokens in all."""
    config = lm.config.get_text_config(decoder=True)
    if sees_all(config):
        return Cache(layers=[RoomyLayer(room) for _ in range(config.num_hidden_layers)])
    return DynamicCache(config=lm.config)  # sliding windows and linear attention have layers of their own


def positions(mask_RS: Tensor) -> Tensor:
    """Position ids under left padding: GPT-2's plain forward would count the padding, unlike its generation."""
    return (mask_RS.cumsum(-1) - 1).clamp(min=0)


def next_state(
    lm: nn.Module,
    cache: Cache,
    mask_RS: Tensor,
    position_RN: Tensor,
    inputs_RNW: Tensor,
    place_N: Tensor | None = None,
) -> Tensor:
    """Reads the inputs behind what the cache holds; the last position's hidden states [R, W].

    `mask_RS` is 0 on padding, `place_N` the columns of the new tokens in it, which are its last if not given.
    """
    trunk = trunk_of(lm)
    if place_N is None and not isinstance(trunk, GPT2Model):  # transformers makes the mask
        return _last_of(trunk, cache, mask_RS, position_RN, inputs_RNW)
    column_S = torch.arange(mask_RS.shape[1], device=mask_RS.device)
    own_N1 = (column_S[-inputs_RNW.shape[1] :] if place_N is None else place_N)[:, None]
    # Padding sees itself: a row of attention that sees nothing is not a number in some kernels.
    seen_RNS = (column_S <= own_N1) & (mask_RS[:, None].bool() | (column_S == own_N1))
    if isinstance(trunk, GPT2Model):
        return last_state(trunk, inputs_RNW, seen_RNS, position_RN, cache)
    return _last_of(trunk, cache, seen_RNS[:, None], position_RN, inputs_RNW)


def _last_of(trunk: nn.Module, cache: Cache, mask: Tensor, position_RN: Tensor, inputs_RNW: Tensor) -> Tensor:
    options = {"attention_mask": mask, "position_ids": position_RN, "past_key_values": cache, "use_cache": True}
    return trunk(inputs_embeds=inputs_RNW, **options).last_hidden_state[:, -1]
