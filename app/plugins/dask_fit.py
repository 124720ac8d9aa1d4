"""Fits past one machine: the parts of an additive strategy's fit are counted on a Dask cluster.

Needs the extra `dask`. A worker needs the strategy's distribution and this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from app.domain.errors import InvalidInput
from app.domain.strategy import InstalledStrategy
from vitrine_sdk import Arrays, Config, TrainingData
from vitrine_sdk.additive import Additive, fit_in_parts

if TYPE_CHECKING:
    from distributed import Client


class OnDask:
    """Maps a function over parts on a cluster: the `run` of `fit_in_parts`.

    Args:
        client: connected. Whoever made it closes it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(
        self, function: Callable[[TrainingData], Arrays], parts: Sequence[TrainingData]
    ) -> Iterable[Arrays]:
        # Not pure: nobody keeps results by the hash of their input, which takes long to hash.
        counted: Sequence[Any] = self._client.map(function, parts, pure=False)
        for future in counted:  # in the parts' order: the same sums, rounded alike, each time
            yield future.result()
            future.release()


def fit_on_dask(
    strategy: InstalledStrategy,
    data: TrainingData,
    config: Config,
    seed: int,
    client: Client,
    parts: int,
) -> Arrays:
    """What `strategy.fit` gives, within the rounding of sums in another order.

    Raises:
        InvalidInput: the strategy's fit is no sum over shoppers.
    """
    usable: Any = strategy.usable()
    if not isinstance(usable, Additive):
        raise InvalidInput(
            f"strategy {strategy.name!r} fits on one machine only: it is not additive"
        )
    return fit_in_parts(usable, data, config, seed, parts, OnDask(client))
