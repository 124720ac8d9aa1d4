"""A fit on a local Dask cluster of two processes gives the single machine's artefact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.domain.errors import InvalidInput
from app.domain.strategy import InstalledStrategy
from app.plugins.dask_fit import fit_on_dask
from app.plugins.discovery import discover
from vitrine_sdk.testing import small_shop
from vitrine_sdk.testing.additive import assert_close

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

pytestmark = [
    pytest.mark.slow,
    # Dask's own, at its cluster's end.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        yield client


def installed(name: str) -> InstalledStrategy:
    found = discover().get(name)
    assert found is not None
    return found


@pytest.mark.parametrize("relation", ["related", "complement"])
def test_the_artefact_is_the_single_machines(client: Any, relation: str) -> None:
    strategy = installed("similar")
    config = strategy.configuration({"relation": relation, "window_days": 3650})
    data = small_shop()
    found = fit_on_dask(strategy, data, config, 7, client, parts=4)
    assert len(client.scheduler_info()["workers"]) == 2
    assert_close(found, strategy.usable().fit(data, config, 7))
    again = fit_on_dask(strategy, data, config, 7, client, parts=4)
    assert all((found[name] == again[name]).all() for name in found)


def test_what_is_no_sum_is_refused(client: Any) -> None:
    strategy = installed("session")
    with pytest.raises(InvalidInput, match="'session' fits on one machine only"):
        fit_on_dask(strategy, small_shop(), strategy.configuration({}), 7, client, parts=2)
