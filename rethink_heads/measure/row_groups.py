"""Parquet files whose row groups are of one group each, written part by part: detector and head, say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rethink_heads.distributed import is_first_process, processes
from rethink_heads.files import METADATA_KEY, parquet_streams, reading_parquet
from rethink_heads.locking import hold, results_folder
from rethink_heads.measure.frames import BY_GROUP

Group = tuple[str, ...]
Place = tuple[Path, int, Group]
"""A row group: its file, its number there, and what it is of."""
Part = TypeVar("Part")
LABEL = "detector"
"""The column with a detector's name, the same in all rows of a file."""

_TYPES = {"int64": pa.int64(), "float64": pa.float64(), "str": pa.string()}


def arrow_schema(columns: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of columns of a frame's types; of any other type are lists of float32."""
    return pa.schema([(c, _TYPES.get(kind, pa.list_(pa.float32()))) for c, kind in columns.items()])


def by_group(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[Group, pa.Table]]:
    """The rows of each different group of texts in ``columns``, the groups in rising order."""
    found = table.select(columns).group_by(columns, use_threads=False).aggregate([]).to_pylist()
    for group in sorted(tuple(row[column] for column in columns) for row in found):
        masks = [pc.equal(table[name], text) for name, text in zip(columns, group, strict=True)]
        yield group, table.filter(reduce(pc.and_, masks))


def write_by_group(
    tables: Iterable[pa.Table],
    path: Path,
    columns: Mapping[str, str],
    group: Sequence[str],
    provenance: Mapping[str, str],
    bound: float,
) -> None:
    """Write tables one below the other, holding no more than a few of them, a row group for each group.

    Args:
        tables: with these columns.
        path: gets all of them or nothing.
        columns: names and types.
        group: the columns that a row group has one text in.
        provenance: of the whole.
        bound: bytes that are gathered before they are written.
    """
    schema = arrow_schema(columns).with_metadata({BY_GROUP: b"1"})
    with parquet_streams({path: schema}, provenance) as streams:
        stream = streams[Path(path)]
        for some in gathered(tables, lambda table: table.nbytes, bound):
            whole = pa.concat_tables([schema.empty_table(), *some])
            for _, rows in by_group(whole, group):
                stream.write(rows)


def groups_of_file(path: Path, columns: Sequence[str]) -> list[Group] | None:
    """The group of each row group; None where they are not of one each."""
    schema = pq.read_schema(path)
    if BY_GROUP not in (schema.metadata or {}):
        return None
    metadata = pq.read_metadata(path)
    places = [schema.names.index(column) for column in columns]
    return [group_of(metadata.row_group(i), places) for i in range(metadata.num_row_groups)]


def places_in(paths: Sequence[Path], columns: Sequence[str]) -> tuple[Place, ...] | None:
    """The row groups of several files; None where those of any file are not of one group each.

    Raises:
        UserError: a file is not there, or damaged.
    """
    places: list[Place] = []
    for path in paths:
        with reading_parquet(path):
            groups = groups_of_file(path, columns)
        if groups is None:
            return None
        places += [(path, index, group) for index, group in enumerate(groups)]
    return tuple(places)


def read_places(places: Iterable[Place], columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """These columns of some row groups, one after another; each of a file's that stand together opens it once.

    Raises:
        UserError: a file is damaged.
    """
    names = list(columns)
    for path, of_file in groupby(places, key=itemgetter(0)):
        with (
            reading_parquet(path),
            pq.ParquetFile(path, page_checksum_verification=True) as file,
        ):
            for _, index, _ in of_file:
                table = file.read_row_group(index, columns=names, use_threads=False)
                yield table.select(names).to_pandas()


def with_label(table: pa.Table, detector: str) -> pa.Table:
    """A table whose rows are of one detector, under another name of it."""
    place = table.schema.names.index(LABEL)
    field = table.schema.field(place)
    return table.set_column(place, field, pa.repeat(detector, len(table)).cast(field.type))


def label_files(folder: Path, detector: str) -> None:
    """Have the files of one detector in a folder call it by its present name: its run may have been renamed or copied.

    Raises:
        UserError: a file is damaged, or must be written and cannot be.
    """
    paths = sorted(Path(folder).glob("*.parquet"))

    def is_done() -> bool:
        return all(_label(path) in (None, detector) for path in paths)

    if processes().broadcast(is_done):
        return
    with hold(results_folder(folder)):
        if is_first_process():
            for path in paths:
                if _label(path) not in (None, detector):
                    _relabel(path, detector)


def _label(path: Path) -> str | None:
    """The name that a file calls its detector by; None where it has no rows."""
    with reading_parquet(path):
        metadata, schema = pq.read_metadata(path), pq.read_schema(path)
    if not metadata.num_rows or LABEL not in schema.names:
        return None
    return group_of(metadata.row_group(0), [schema.names.index(LABEL)])[0]


def _relabel(path: Path, detector: str) -> None:
    with reading_parquet(path):
        read = pq.read_schema(path)
    # Without what the reader adds to the fields, so that the file is as if it had been written with that name.
    kinds = [pa.list_(f.type.value_type) if pa.types.is_list(f.type) else f.type for f in read]
    schema = pa.schema(zip(read.names, kinds, strict=True), read.metadata)
    provenance = json.loads((read.metadata or {}).get(METADATA_KEY, b"{}"))
    with (
        parquet_streams({path: schema}, provenance) as streams,
        reading_parquet(path),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        for index in range(file.num_row_groups):
            table = file.read_row_group(index, use_threads=False)
            streams[path].write(with_label(table, detector).cast(schema))


def group_of(metadata: pq.RowGroupMetaData, places: Sequence[int]) -> Group:
    """The texts of a row group of one group, in the columns at these places."""
    # All rows have the same texts, so that the smallest is the one.
    return tuple(str(metadata.column(place).statistics.min) for place in places)


def gathered(
    parts: Iterable[Part], size_of: Callable[[Part], int], bound: float
) -> Iterator[list[Part]]:
    """Consecutive parts of about as many bytes as the bound, or of one; in the end what is left, if only nothing."""
    some: list[Part] = []
    size = 0
    for part in parts:
        some.append(part)
        size += size_of(part)
        # Freed before the next ones are read.
        del part
        if size >= bound:
            yield some
            some, size = [], 0
    yield some
