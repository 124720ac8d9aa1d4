"""From a table's rows to records. A file is data: nothing in it is evaluated, and a cell that a
spreadsheet would take for a formula is the text that it is.

Columns, as Constructor's feeds have them:

| items | variations | item_groups | becomes |
|---|---|---|---|
| id | variation_id or id | id | id |
| item_name or name | the same | name | name |
| | item_id | parent_id, or parent_ids (JSON list) | where it belongs |
| suggested_score | the same | | suggested_score |
| url, image_url, description, price, sale_price | the same | | the field of data |
| active, deactivated, availability | the same | | the field of data |
| keywords, group_ids | the same | | lists, values separated by a vertical bar |
| facet:NAME | the same | | a facet; values separated by a vertical bar |
| metadata:NAME | the same | | data's NAME, as text |
| metadata_json:NAME | the same | | data's NAME, from JSON |
| data | the same | data | data, from JSON |

Any other column is taken like metadata:NAME. An empty cell says nothing of its field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from app.domain.catalogue import Kind, Record
from app.domain.catalogue_input import record_from_fields
from app.domain.errors import InvalidInput

_SEPARATOR: Final = "|"
_TRUE: Final = frozenset({"true", "1", "yes", "y", "t"})
_FALSE: Final = frozenset({"false", "0", "no", "n", "f"})
_TEXTS: Final = frozenset({("id",), ("name",), ("item_id",), ("parent_id",)})

Cell = Callable[[str], Any]


class BrokenFile(InvalidInput):
    """A file that cannot be read to its end: nothing of it counts."""

    def __init__(self, name: str, message: str, line: int | None = None) -> None:
        at = f"{name}, line {line:,}" if line is not None else name
        super().__init__(f"{at}: {message}")
        self.file = name
        self.line = line
        self.reason = message


class Columns:
    """How the columns of a table become the fields of a record."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        columns: Sequence[str],
        *,
        partial: bool,
        mapping: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            name: of the file, for errors.
            mapping: field -> column, where a file calls a field otherwise.

        Raises:
            BrokenFile: a column is missing or comes twice; it lists what was found and wanted.
        """
        self.kind = kind
        self.names = [column.strip() for column in columns]
        self._partial = partial
        fields = self._fields(name, mapping or {})
        self._places = [_place(kind, field) for field in fields]
        have = {place[-1] for place in self._places if len(place) == 1}
        wanted = {"id"} if partial else {"id", "name"}
        if kind is Kind.VARIATIONS:
            wanted = {"id"} if partial else {"id", "item_id"}
        if missing := sorted(wanted - have):
            raise BrokenFile(
                name,
                f"has no column for {' and '.join(missing)}; columns found:"
                f" {', '.join(self.names) or 'none'}; wanted: {', '.join(_wanted(kind))}",
                1,
            )
        doubled = sorted(
            {".".join(place) for place in self._places if self._places.count(place) > 1}
        )
        if doubled:
            raise BrokenFile(name, f"has two columns for {', '.join(doubled)}: leave one", 1)
        self._id = self._places.index(("id",))
        self._cells = [_cell(field) for field in fields]

    def record(self, cells: Sequence[Any]) -> Record:
        """The record of a row. Texts are read as their column says; other values are taken as they
        are, and None and "" say nothing.

        Raises:
            InvalidInput: naming the field.
        """
        fields: dict[str, Any] = {}
        data: dict[str, Any] = {}
        facets: dict[str, Any] = {}
        for place, read, cell in zip(self._places, self._cells, cells, strict=True):
            if cell is None or cell == "":
                continue
            try:
                value = read(cell) if isinstance(cell, str) else _typed(place, cell)
            except ValueError as error:
                raise InvalidInput.field("/" + "/".join(place), str(error)) from None
            if len(place) == 1:
                if place[0] == "data":
                    data.update(value)
                else:
                    fields[place[0]] = value
            elif place[0] == "facets":
                facets[place[1]] = value if isinstance(value, list) else [value]
            else:
                data[place[1]] = value
        if facets:
            data["facets"] = facets
        if data:
            fields["data"] = data
        return record_from_fields(self.kind, fields, partial=self._partial)

    def id_of(self, cells: Sequence[Any]) -> str | None:
        """The id of a row that may be wrong otherwise."""
        found = cells[self._id] if self._id < len(cells) else None
        return str(found)[:250] if found not in (None, "") else None

    def _fields(self, name: str, mapping: Mapping[str, str]) -> list[str]:
        fields = list(self.names)
        for field, column in mapping.items():
            if column not in self.names:
                raise BrokenFile(
                    name,
                    f"has no column {column} to take {field} from; columns found:"
                    f" {', '.join(self.names) or 'none'}",
                    1,
                )
            fields[self.names.index(column)] = field
        return fields


def _wanted(kind: Kind) -> list[str]:
    if kind is Kind.ITEM_GROUPS:
        return ["id", "name", "parent_id", "data"]
    first = ["id", "item_name"] if kind is Kind.ITEMS else ["variation_id", "item_id", "item_name"]
    return [*first, "url", "image_url", "price", "group_ids", "facet:NAME", "metadata:NAME"]


def _place(kind: Kind, field: str) -> tuple[str, ...]:
    """Where a column goes: ("name",), ("data", "brand"), ("facets", "colour")."""
    prefix, _, rest = field.partition(":")
    if rest and prefix in ("metadata", "metadata_json"):
        return ("data", rest)
    if rest and prefix == "facet":
        return ("facets", rest)
    own = {"id": "id", "name": "name", "item_name": "name", "data": "data"}
    if kind is Kind.ITEM_GROUPS:
        own |= {"parent_id": "parent_id", "parent_ids": "parent_ids"}
    else:
        own["suggested_score"] = "suggested_score"
    if kind is Kind.VARIATIONS:
        own |= {"variation_id": "id", "item_id": "item_id"}
    return (own[field],) if field in own else ("data", field)


def _cell(field: str) -> Cell:
    """How the text of a cell is read."""
    prefix, _, rest = field.partition(":")
    if prefix == "metadata_json" and rest:
        return _from_json
    if prefix == "metadata" and rest in ("price", "sale_price"):
        return _number
    if field == "parent_ids":
        return _from_json
    if prefix == "facet" and rest:
        return _list
    return _CELLS.get(field, str)


def _list(text: str) -> list[str]:
    return [part for value in text.split(_SEPARATOR) if (part := value.strip())]


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text  # "£12.50" is a price too; what is none is refused as one


def _score(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


def _truth(text: str) -> bool:
    lower = text.strip().lower()
    if lower not in _TRUE and lower not in _FALSE:
        raise ValueError("must be true or false")
    return lower in _TRUE


def _from_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError("is not valid JSON") from None


def _json_object(text: str) -> dict[str, Any]:
    value = _from_json(text)
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")  # of a cell, not of a type
    return value


_CELLS: Final[Mapping[str, Cell]] = {
    "suggested_score": _score,
    "price": _number,
    "sale_price": _number,
    "active": _truth,
    "deactivated": _truth,
    "keywords": _list,
    "group_ids": _list,
    "data": _json_object,
}


def _typed(place: tuple[str, ...], cell: Any) -> Any:
    """A cell that is no text, as its place wants it: ids that are numbers become texts."""
    if place in _TEXTS and isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    if place == ("data", "group_ids") and isinstance(cell, list):
        return [str(group) if isinstance(group, int) else group for group in cell]
    if place == ("data",) and not isinstance(cell, dict):
        raise ValueError("must be a JSON object")
    return cell
