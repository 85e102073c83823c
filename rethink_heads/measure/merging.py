"""Measurements kept image by image, put together into one folder without holding all of them.

Parts are read in the order of the images' ids and written again as row groups, each of one detector
and head (and kind of map) and of whole images. Who reads one head then reads no other, and whose
sums are within images can take the row groups one after another
(:mod:`rethink_heads.measure.stored`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from rethink_heads.errors import UserError
from rethink_heads.files import ParquetStream, parquet_streams, read_table
from rethink_heads.measure.frames import BY_GROUP, FRAMES, group_columns
from rethink_heads.measure.measurements import Measurements
from rethink_heads.measure.provenance import SAMPLING
from rethink_heads.measure.row_groups import Group, arrow_schema, by_group, gathered, with_label

# Of the bound on memory: what is gathered before it is written. It is there twice while it is sorted, and beside it
# what the writers hold.
_GATHERED = 1 / 16
_MOST_GATHERED = 32 * 2**20

Tables = dict[str, pa.Table]


def schema_of(name: str) -> pa.Schema:
    """The Arrow schema of one of FRAMES."""
    return arrow_schema(FRAMES[name])


def merge_folders(
    parts: Iterable[Path],
    more: Measurements,
    folder: Path,
    provenance: Mapping[str, str],
    memory_mb: int,
    detector: str | None = None,
) -> None:
    """Save the measurements of many folders, and more, in one, with the provenance given.

    Loaded, they are what :meth:`Measurements.merge` makes of them. Where something goes wrong, the
    folder stays as it was.

    Args:
        parts: folders of measurements in the rising order of their images' ids, each of whole images.
        more: measurements of no image, as the maps of the detector's weights.
        folder: gets the files of :meth:`Measurements.save`.
        provenance: of the whole.
        memory_mb: bound on what is held at once, in MiB. One part must fit into a sixteenth of it.
        detector: the name that the detector of all of it gets; None: they keep theirs.

    Raises:
        UserError: a part is missing or damaged, or the folder cannot be written.
        ValueError: an object, detector and head is there twice within a part.
    """
    bound = min(memory_mb * 2**20 * _GATHERED, _MOST_GATHERED)
    paths = {folder / f"{name}.parquet": schema_of(name) for name in FRAMES}
    schemas = {path: schema.with_metadata({BY_GROUP: b"1"}) for path, schema in paths.items()}
    with parquet_streams(schemas, provenance) as streams:
        of_frames = dict(zip(FRAMES, streams.values(), strict=True))
        tables: Iterable[Tables] = chain([_tables_of(more)], map(_read, parts))
        if detector is not None:
            tables = ({n: with_label(t, detector) for n, t in each.items()} for each in tables)
        for some in gathered(tables, _size_of, bound):
            for name, stream in of_frames.items():
                # Freed before the next frame is sorted.
                _write(name, [tables.pop(name) for tables in some], stream)


def _size_of(tables: Tables) -> int:
    return sum(table.nbytes for table in tables.values())


def _write(name: str, tables: list[pa.Table], stream: ParquetStream) -> None:
    """Write a frame's parts as a row group for each of its groups, sorted within."""
    whole = pa.concat_tables([schema_of(name).empty_table(), *tables])
    # A stable sort: the sampled rows of one object and bin keep their order.
    whole = whole.append_column("place", pa.array(np.arange(len(whole))))
    keys = ["image_id", "object_id", *(["bin"] if "bin" in FRAMES[name] else [])]
    for group, rows in by_group(whole, group_columns(name)):
        found = rows.sort_by([(key, "ascending") for key in (*keys, "place")])
        found = found.drop_columns("place")
        if name != "rows":
            _check_once(name, found, keys, group)
        stream.write(found)


def _check_once(name: str, found: pa.Table, keys: list[str], group: Group) -> None:
    """Raise ValueError if two neighbours have the same keys."""
    columns = [found[key].to_numpy() for key in keys]
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    if same.any():
        first = int(np.flatnonzero(same)[0])
        raise ValueError(
            f"object {columns[1][first]} of image {columns[0][first]} was measured twice "
            f"for head {group[1]!r} of {group[0]!r} ({name})"
        )


def _tables_of(measurements: Measurements) -> Tables:
    return {name: _arrow(getattr(measurements, name), name) for name in FRAMES}


def _arrow(frame: pd.DataFrame, name: str) -> pa.Table:
    if frame.empty:
        return schema_of(name).empty_table()
    return _cast(pa.Table.from_pandas(frame, preserve_index=False), name)


def _cast(table: pa.Table, name: str) -> pa.Table:
    schema = schema_of(name)
    # A frame of maps without a row has no type for them.
    return table.select(schema.names).cast(schema) if len(table) else schema.empty_table()


def _read(folder: Path) -> Tables:
    """One part, its frames as :meth:`Measurements.load` checks them.

    Raises:
        UserError: a file is missing, damaged, not one of measurements, or of another provenance than the others.
    """
    found: Tables = {}
    provenances = []
    for name in FRAMES:
        path = folder / f"{name}.parquet"
        if name == SAMPLING and not path.is_file():
            # Of before there were errors of sampling.
            found[name] = schema_of(name).empty_table()
            continue
        table, provenance = read_table(path)
        provenances.append(provenance)
        try:
            found[name] = _cast(table, name)
        except (pa.ArrowException, KeyError) as error:
            raise UserError(
                f"{path} does not hold measurements ({error}); delete {folder} and measure again"
            ) from error
    if any(provenance != provenances[0] for provenance in provenances):
        raise UserError(
            f"the files in {folder} are not of one measuring: what they state of their making "
            f"differs; delete {folder} and measure again"
        )
    return found
