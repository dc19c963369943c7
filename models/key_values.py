"""Key-value caches whose memory is made ahead.

R rows, S places, N of them new.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from models.language_model import sees_all

AHEAD = 64  # places that are made for what comes


class RoomyLayer(DynamicLayer):
    """Keys and values [R, heads, length, width] written into room made ahead, where DynamicLayer copies all of them.

    `rooms` hold both with all their places, zeros where nothing stands yet.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.length = most, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple:
        """Appends, and returns all of it so far."""
        end = self.length + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = [s[:, :, :0] for s in (key_states, value_states)]
        if (there := self.rooms[0].shape[2]) < end:
            more = min(self.most, end + AHEAD) - there
            self.rooms = [F.pad(room, (0, 0, 0, more)) for room in self.rooms]
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, self.length : end] = new
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the given rows, in their order; a row may come several times."""
        self.rooms = [room.index_select(0, indices) for room in self.rooms]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (room[:, :, : self.length] for room in self.rooms)


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
