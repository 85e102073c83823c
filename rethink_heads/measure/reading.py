"""Files of measurements whose row groups are of one detector and head each, read one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from rethink_heads.files import reading_parquet
from rethink_heads.measure.frames import BY_GROUP, FRAMES, OBJECT, group_columns
from rethink_heads.measure.row_groups import group_of

# In memory, beside the 8 bytes of each number: of a row's texts, and of an array.
_ROW_BYTES, _ARRAY_BYTES = 48, 120

Groups = dict[tuple[str, ...], int]


@dataclass(frozen=True)
class MeasurementFiles:
    """A folder of measurements whose row groups are of one group each."""

    folder: Path
    provenance: dict[str, str]

    @cached_property
    def by_group(self) -> bool:
        """Whether the row groups are as :func:`rethink_heads.measure.merging.merge_folders` leaves them."""
        present = [path for path in self._paths.values() if path.is_file()]
        return all(BY_GROUP in (pq.read_schema(path).metadata or {}) for path in present)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {name: self.folder / f"{name}.parquet" for name in FRAMES}

    @cached_property
    def row_groups(self) -> dict[str, list[tuple[tuple[str, ...], int]]]:
        """By frame: what each row group is of, and its number of rows."""
        found: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        for name, path in self._paths.items():
            if not path.is_file():
                found[name] = []
                continue
            with reading_parquet(path), pq.ParquetFile(path) as file:
                places = [file.schema_arrow.names.index(column) for column in group_columns(name)]
                each = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
                found[name] = [(group_of(one, places), one.num_rows) for one in each]
        return found

    def memory(self) -> float:
        """Bytes that all of it takes when it is loaded."""
        size = 0.0
        for name, path in self._paths.items():
            if path.is_file():
                with reading_parquet(path):
                    metadata = pq.read_metadata(path)
                numbers = sum(kind != "str" for kind in FRAMES[name].values())
                size += metadata.num_rows * (8 * numbers + _ROW_BYTES)
                if "values" in FRAMES[name]:
                    size += metadata.num_rows * _ARRAY_BYTES + sum(
                        metadata.row_group(i).total_byte_size
                        for i in range(metadata.num_row_groups)
                    )
        return size

    def groups(self, name: str) -> Groups:
        """See :meth:`Measurements.groups`."""
        counts: Groups = {}
        for group, rows in self.row_groups[name]:
            counts[group] = counts.get(group, 0) + rows
        return dict(sorted(counts.items()))

    def read(
        self,
        name: str,
        columns: Sequence[str] = (),
        *,
        detector: str | None = None,
        head: str | None = None,
        kind: str | None = None,
    ) -> Iterator[pd.DataFrame]:
        """See :meth:`Measurements.read`; without a part where there are no rows."""
        path = self._paths[name]
        wanted = (detector, head, kind)
        chosen = [
            index
            for index, (group, _) in enumerate(self.row_groups[name])
            if all(text in (None, own) for text, own in zip(wanted, group, strict=False))
        ]
        # The row groups of one group are in rising order of images already.
        chosen.sort(key=lambda index: self.row_groups[name][index][0])
        if not chosen:
            return
        ordered = [*OBJECT, *(column for column in columns if column not in OBJECT)]
        texts = [column for column in ordered if FRAMES[name][column] == "str"]
        with (
            reading_parquet(path),
            pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True) as file,
        ):
            for index in chosen:
                table = file.read_row_group(index, columns=ordered, use_threads=False)
                yield table.select(ordered).to_pandas()
