"""Training on events that lie as Parquet in an object store: what `EventArchive` writes, or a
warehouse's export with the same columns. The catalogue stays where it is."""

from __future__ import annotations

import asyncio
import datetime as dt
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Final

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.domain.catalogue import Section
from app.domain.errors import InvalidInput, NotFound, Unavailable
from app.domain.merchant import MerchantId
from app.services.train import Progress, TrainingSet
from app.services.training_columns import COLUMNS, CatalogueSource, coded, training_set
from vitrine_sdk import EventType

_NEEDED: Final = (
    "occurred_at", "type", "section", "client_id", "user_id", "session", "item_id", "quantity",
    "revenue", "order_id", "term", "learn",
)  # fmt: skip
_ROWS_AT_ONCE: Final = 200_000
_ARROW_ERRORS: Final = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)


class ParquetTrainingData:
    """Implements `services.train.TrainingDataSource`.

    Args:
        url: a directory, or any fsspec URL, that holds `<merchant>/*.parquet`, deeper ones too.
        catalogue: where the items are read, and who logged in on which client.
    """

    def __init__(self, url: str, catalogue: CatalogueSource) -> None:
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self._catalogue = catalogue

    async def read(
        self, merchant: MerchantId, section: Section, until: float, progress: Progress
    ) -> TrainingSet:
        """Everything of a section up to `until` (Unix seconds) that may be learned from.

        Raises:
            NotFound: there are no files of the merchant's.
            InvalidInput: a file is no Parquet, or lacks a column or has another type there.
            Unavailable: the store, or PostgreSQL, is away.
        """
        catalogue = await self._catalogue.catalogue(merchant, section)
        progress(f"{len(catalogue.items):,} items of section {section}")
        try:
            files = await asyncio.to_thread(self._files, merchant)
            progress(f"{len(files):,} files of events")
            batches = self._batches(files, section, until, catalogue.users)
            events, unknown = await asyncio.to_thread(coded, batches, catalogue.items.ids)
        except OSError as error:
            raise Unavailable("the store of events cannot be read now", 60) from error
        progress(f"{len(events):,} events of {events.shoppers:,} shoppers")
        return training_set(catalogue, events, unknown, section, until)

    def _files(self, merchant: MerchantId) -> list[str]:
        folder = f"{self._root}/{urllib.parse.quote(merchant, safe='')}"
        found = self._fs.find(folder)
        files = sorted(one for one in found if one.endswith(".parquet"))
        if not files:
            raise NotFound(f"there are no Parquet files of events of merchant {merchant!r}")
        return files

    def _batches(
        self, files: list[str], section: Section, until: float, users: Mapping[str, str]
    ) -> Iterator[Any]:
        known = pa.array(users, pa.string()), pa.array(users.values(), pa.string())
        for path in files:
            name = path.rsplit("/", 1)[-1]
            try:
                with self._fs.open(path, "rb") as file:
                    opened = pq.ParquetFile(file)
                    missing = [one for one in _NEEDED if one not in opened.schema_arrow.names]
                    if missing:
                        raise InvalidInput(f"{name}: lacks the column {missing[0]!r}")
                    for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=list(_NEEDED)):
                        yield _columns(batch, section, until, known)
            except _ARROW_ERRORS as error:
                first = str(error).splitlines()[0]
                raise InvalidInput(f"{name}: cannot be read as events: {first}") from None


def _columns(batch: Any, section: Section, until: float, users: tuple[Any, Any]) -> Any:
    """`COLUMNS` of those rows that may be learned from, by the rules of
    `app.postgres.training_data`."""
    latest = dt.datetime.fromtimestamp(until, dt.UTC)
    time = batch.column("occurred_at").cast(pa.timestamp("us", tz="UTC"))
    keep = pc.and_(pc.equal(batch.column("section"), section), batch.column("learn"))
    keep = pc.and_(keep, pc.less_equal(time, pa.scalar(latest, pa.timestamp("us", tz="UTC"))))
    batch = batch.filter(keep.fill_null(False))
    user, client, order = (_text(batch, name) for name in ("user_id", "client_id", "order_id"))
    logged_in = users[1].take(pc.index_in(client, value_set=users[0]))
    shopper = pc.coalesce(
        _after("u:", user), _after("u:", logged_in), _after("c:", client), _after("o:", order)
    )
    bought = pc.equal(batch.column("type").cast(pa.int64()), int(EventType.PURCHASE))
    basket = pc.if_else(bought, _after("o", order), pa.scalar(None, pa.string()))
    visit = pc.binary_join_element_wise(
        _after("s", client.fill_null("")), _text(batch, "session"), ":"
    )
    # To the nearest second, as PostgreSQL makes a bigint of its epoch.
    time = batch.column("occurred_at").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    seconds = pc.divide(pc.add(time, 500_000), 1_000_000)
    columns = {
        "shopper": shopper,
        "item": _text(batch, "item_id"),
        "type": batch.column("type"),
        "time": seconds,
        "quantity": batch.column("quantity").fill_null(1),
        "revenue": batch.column("revenue").fill_null(0),
        "session": pc.coalesce(basket, visit),
        "term": _text(batch, "term"),
    }
    arrays = [
        columns[name].dictionary_encode()
        if pa.types.is_dictionary(kind)
        else columns[name].cast(kind)
        for name, kind in COLUMNS.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS))


def _text(batch: Any, name: str) -> Any:
    return batch.column(name).cast(pa.string())


def _after(prefix: str, column: Any) -> Any:
    """Null stays null."""
    return pc.binary_join_element_wise(pa.scalar(prefix), column, "")
