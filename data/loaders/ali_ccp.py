"""Ali-CCP [Ma et al., SIGIR 2018; Tianchi 408]: Taobao exposures, clicks and purchases. Three published forms:

    skeleton   sample_skeleton_{train,test}.csv + common_features_{train,test}.csv, as Tianchi distributes it:
                   sample_id,click,purchase,common_feature_index,number_of_features,FEATURES
                   common_feature_index,number_of_features,FEATURES
               FEATURES = field \\x02 id \\x03 value, joined by \\x01; a row has its own and its common features
    csv        one column a field, with a header (click, purchase, 101, 121, ..., D109_14, ...)
    slots      sample_id,click,purchase,field:id,field:id,...

Single-valued fields become hashed categorical features (the first id, should a field be there twice), the D columns of
the csv form numeric ones. The multi-valued fields named in `lists` become mean-pooled features of hashed lists: by
default 210, the item's; the user's behaviour lists (109_14, 110_14, 127_14, 150_14) have hundreds of entries that are
repeated in every row of a user, of which the last 200 of a row are read. They share no rows with the item's fields
(206, 207, 216, 210), because published ids are numbered apart for each field. The values of the skeleton form are not
kept, and the csv form has no lists. Rows with a purchase and no click are dropped and counted. Download is left to the
user: the terms are research only and want an account.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import UserError
from data.loaders import common
from data.loaders.tokens import Tokens, first_ids, id_lists, tokenize
from data.schema import CategoricalField, Many, Schema
from data.write import PartFacts

USER_FIELDS = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
ROW_FIELDS = ("205", "206", "207", "216", "508", "509", "702", "853", "301")
SINGLE = USER_FIELDS + ROW_FIELDS
LISTS = ("210",)
# The buckets of a user's lists are those of the item's field of the same kind: category, shop, brand, intention.
LIST_BUCKETS = {"210": 2**17, "109_14": 2**14, "110_14": 2**19, "127_14": 2**18, "150_14": 2**17}
LONGEST = 200
# Buckets for the large id spaces: users, items, shops, brands and the crossed fields.
BUCKETS = {"101": 2**19, "205": 2**20, "206": 2**14, "207": 2**19, "216": 2**18}
BUCKETS |= {"508": 2**14, "509": 2**18, "702": 2**17, "853": 2**17}
SMALL = 1024
SKELETON = {"exposure_id": pa.int64(), "click": pa.int8(), "conversion": pa.int8(), "common": pa.string()}
SKELETON |= {"features": pa.int32(), "text": pa.string()}
COMMON = {"common": pa.string(), "features": pa.int32(), "text": pa.string()}
FORMS = {"skeleton": "sample_skeleton_*.csv", "csv": "*.csv", "slots": "*.txt"}
Block = tuple[pa.Table, np.ndarray, Path]


def load_ali_ccp(
    source: str | Path,
    out: str | Path,
    form: str = "auto",
    seed: int = 0,
    lists: Sequence[str] = LISTS,
    progress: common.Progress = common.silent,
) -> dict[str, PartFacts]:
    """Turn a directory (or one file) of a form into a log at `out`; "auto" takes the first form that has files.

    The skeleton form streams the rows and holds the common features' single-valued ids in memory (about 100 bytes a
    user visit). Splits without a file are a tenth of train, by a hash of the user (skeleton), else of the row.
    Raises UserError: no files, a line that does not parse, a common_feature_index without its line, an unknown form or
    list, lists other than the default's with the csv form.
    """
    source = Path(source)
    if form not in ("auto", *FORMS):
        raise UserError(f"form {form!r} is none of auto, {', '.join(FORMS)}")
    unknown = [name for name in lists if name not in LIST_BUCKETS]
    if unknown:
        raise UserError(f"{unknown[0]!r} is no multi-valued field of Ali-CCP; these are {', '.join(LIST_BUCKETS)}")
    if not source.exists():
        raise UserError(f"{source}: no such file or directory")
    if form == "auto":
        form = next((form for form, pattern in FORMS.items() if matches(source, pattern)), "skeleton")
    files = common.part_files(source, FORMS[form])
    if form == "csv":
        if tuple(lists) != LISTS:
            raise UserError(f"{source}: the csv form has one value a field, so no lists {', '.join(lists)}")
        return load_csv(files, out, seed, progress)
    rows = skeleton_blocks(files, seed, lists) if form == "skeleton" else slot_blocks(files, seed, lists)
    user = "101" if form == "skeleton" else None
    return common.write_log(out, ali_ccp_schema(SINGLE, lists=lists, user=user, exposure="exposure_id"), rows, progress)


def matches(source: Path, pattern: str) -> bool:
    return source.match(pattern) if source.is_file() else any(source.glob(pattern))


def ali_ccp_schema(
    categorical: Sequence[str],
    numeric: Sequence[str] = (),
    lists: Sequence[str] = (),
    conversion: str = "conversion",
    user: str | None = None,
    exposure: str | None = None,
) -> Schema:
    return Schema(
        name="ali_ccp",
        categorical=(
            *(CategoricalField(name, "hash", BUCKETS.get(name, SMALL)) for name in categorical),
            *(CategoricalField(name, "hash", LIST_BUCKETS[name], many=Many("mean", LONGEST)) for name in lists),
        ),
        numeric=tuple(numeric),
        labels={"click": "click", "conversion": conversion},
        exposure=exposure,
        user=user,
    )


def load_csv(
    files: dict[str, list[Path]], out: str | Path, seed: int, progress: common.Progress
) -> dict[str, PartFacts]:
    """The form with a header: digits first = a categorical field, D first = a numeric one."""
    header = common.csv_header(files["train"][0])
    conversion = next((name for name in ("conversion", "purchase", "buy") if name in header), None)
    if "click" not in header or conversion is None:
        raise UserError(
            f"{files['train'][0]}: the header needs 'click' and 'purchase', has {', '.join(header[:8])} ..."
        )
    categorical = [name for name in header if name[:1].isdigit()]
    numeric = [name for name in header if name[:1] == "D"]
    types = {name: pa.int8() for name in ("click", conversion)} | {name: pa.int64() for name in categorical}
    types |= {name: pa.float32() for name in numeric}
    shares = common.held_out(files)

    def blocks() -> Iterator[Block]:
        for index, part in enumerate(common.PARTS):
            for path in files[part]:
                absent = [name for name in types if name not in common.csv_header(path)]
                if absent:
                    raise UserError(f"{path}: no column {absent[0]!r}, which {files['train'][0].name} has")
                start = 0
                for table in common.csv_blocks(path, types):
                    row = pa.array(np.arange(start, start + table.num_rows))
                    yield table, split(index, row, shares, seed), path
                    start += table.num_rows

    # The csv form's ids were renumbered by whoever flattened it, so 101 no longer distinguishes visits of a user.
    schema = ali_ccp_schema(categorical, numeric, conversion=conversion)
    return common.write_log(out, schema, blocks(), progress)


def split(index: int, key: pa.Array, shares: dict[str, float], seed: int) -> np.ndarray:
    return np.full(len(key), index) if index else common.hash_split(key, shares, seed)


def skeleton_blocks(files: dict[str, list[Path]], seed: int, lists: Sequence[str]) -> Iterator[Block]:
    shares = common.held_out(files)
    for index, part in enumerate(common.PARTS):
        for path in files[part]:
            shared = read_common(path.with_name(path.name.replace("sample_skeleton", "common_features")), lists)
            start = 0
            for table in common.csv_blocks(path, SKELETON, list(SKELETON)):
                table = table.combine_chunks()
                key = table.column("common").chunk(0)
                place = pc.index_in(key, shared.column("common"))
                if place.null_count:
                    row = int(np.flatnonzero(place.is_null().to_numpy(zero_copy_only=False))[0])
                    raise UserError(f"{path}: line {start + row + 1}: no common features for index {key[row]}")
                own = parse(table, path, start, ROW_FIELDS, lists)
                own |= {name: shared.column(name).take(place) for name in USER_FIELDS}
                own |= {name: shared.column(name).take(place) for name in lists if name in shared.column_names}
                columns = {name: table.column(name) for name in ("exposure_id", "click", "conversion")}
                yield pa.table(columns | own), split(index, key, shares, seed), path
                start += table.num_rows


def read_common(path: Path, lists: Sequence[str]) -> pa.Table:
    """The common features by their index: one row each, with the user's fields and such lists as any row has."""
    if not path.exists():
        raise UserError(f"{path}: no such file; the skeleton form needs it beside the sample_skeleton file")
    tables, start = [], 0
    for table in common.csv_blocks(path, COMMON, list(COMMON)):
        parsed = parse(table.combine_chunks(), path, start, USER_FIELDS, lists)
        tables.append(pa.table({"common": table.column("common"), **parsed}))
        start += table.num_rows
    joined = pa.concat_tables(tables).combine_chunks()
    # A list that the rows carry themselves (210) is empty here and must not hide theirs.
    unused = [name for name in lists if not pc.sum(pc.list_value_length(joined.column(name))).as_py()]
    return joined.drop_columns(unused)


def parse(table: pa.Table, path: Path, start: int, single: Sequence[str], lists: Sequence[str]) -> dict[str, pa.Array]:
    """Columns of the wanted fields, from a block of FEATURES texts."""
    tokens = tokenize(table.column("text").chunk(0), ("\x01", "\x02", "\x03"), path, start)
    counted_R = np.bincount(tokens.row_S, minlength=table.num_rows)
    wrong = np.flatnonzero(counted_R != table.column("features").to_numpy())
    if len(wrong):
        said = table.column("features")[int(wrong[0])]
        raise UserError(f"{path}: line {start + wrong[0] + 1}: has {counted_R[wrong[0]]} features, says {said}")
    return fields(tokens, single, lists)


def fields(tokens: Tokens, single: Sequence[str], lists: Sequence[str]) -> dict[str, pa.Array]:
    return {name: first_ids(tokens, name) for name in single} | {name: id_lists(tokens, name) for name in lists}


def slot_blocks(files: dict[str, list[Path]], seed: int, lists: Sequence[str]) -> Iterator[Block]:
    shares, head = common.held_out(files), ("exposure_id", "click", "conversion")
    for index, part in enumerate(common.PARTS):
        for path in files[part]:
            start = 0
            for line in common.text_blocks(path):
                cut = pc.split_pattern(line, ",", max_splits=3)
                short = np.flatnonzero(pc.list_value_length(cut).to_numpy() < 4)
                if len(short):
                    raise UserError(f"{path}: line {start + short[0] + 1}: needs sample_id,click,purchase,field:id,...")
                try:
                    columns = {name: pc.list_element(cut, i).cast(pa.int64()) for i, name in enumerate(head)}
                except pa.ArrowInvalid as error:
                    raise UserError(f"{path}: a sample_id or label is no whole number ({error})") from None
                tokens = tokenize(pc.list_element(cut, 3), (",", ":"), path, start)
                columns |= fields(tokens, SINGLE, lists)
                yield pa.table(columns), split(index, columns["exposure_id"], shares, seed), path
                start += len(line)
