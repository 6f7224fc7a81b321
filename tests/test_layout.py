"""The house rules: who imports whom, how long a file may be, what the README says stands where."""

import ast
import functools
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "distributed", "es", "funnel", "jobs", "models", "benchmarks", "tests")
STANDARD = sys.stdlib_module_names

# What each room may import beside itself and the standard library.
ALLOWED = {
    "models": {"torch", "data"},
    "data": {"numpy", "pyarrow", "fsspec", "scipy"},
    "es": {"data", "numpy", "ray", "safetensors", "filelock", "gymnasium", "cma"},
    "funnel": {"models", "data", "es", "torch", "numpy", "pyarrow", "scipy", "sklearn", "pydantic", "threadpoolctl"}
    | {"onnx", "onnxscript", "onnxruntime", "faiss", "networkx", "safetensors"},
    "distributed": {"funnel", "models", "data", "torch", "numpy", "ray", "safetensors", "tensorboardX"},
}
# What a room may import of another: modules, or rooms inside them. Without an entry, all of it.
PARTS = {
    ("models", "data"): ("data.errors",),  # the one class of errors that becomes a line for the user
    ("es", "data"): ("data.errors", "data.cpus", "data.files"),
    ("funnel", "es"): ("es.objectives.base", "es.policies", "es.hashing"),
    ("distributed", "funnel"): ("funnel.problem", "funnel.registry", "funnel.settings"),
    ("distributed", "models"): ("models.embedding", "models.row_kernels", "models.rows"),
}
SHARED = ("problem", "tunable", "panels", "registry", "settings", "spaces", "batch", "rows", "network",
          "lists", "figures", "graph_files", "off_policy", "progress", "numbers", "tools", "platform", "simulator",
          "effects", "fitted", "operation", "trained_log", "unit_evaluation", "unit_panels")  # fmt: skip
"""What any system of funnel/ may import of it; of other systems nothing."""
EXCEPTIONS = {("ranking", "fusion")}  # an exported ranker holds the fusion of its scores
LONGEST = 350
MEDIAN = 160


def files(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


@functools.cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """What is imported, wherever in the file the import stands."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in it the import stands."""
    names = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_import_only_what_they_may(room: str) -> None:
    for path in files(room):
        strangers = imported(path) - ALLOWED[room] - STANDARD - {room}
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


def modules(path: Path) -> set[str]:
    """Full names of the modules that a file imports from, wherever in it the import stands."""
    names = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def test_rooms_import_only_the_parts_they_may() -> None:
    for (room, other), places in PARTS.items():
        for path in files(room):
            strange = {name for name in modules(path) if name.split(".")[0] == other and not within(name, places)}
            assert not strange, f"{path.relative_to(ROOT)} imports {sorted(strange)}"


def systems() -> set[str]:
    folders = {path.name for path in (ROOT / "funnel").iterdir() if path.is_dir() and path.name != "__pycache__"}
    return folders - set(SHARED) | {"off_policy"}


def test_a_system_imports_no_other_system() -> None:
    for path in files("funnel"):
        own = path.relative_to(ROOT / "funnel").parts[0]
        for name in modules(path):
            package, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if package == "funnel" and other not in (own, *SHARED):
                assert (own, other) in EXCEPTIONS, f"{path.relative_to(ROOT)} imports {name}"


def test_the_loop_trains_anything() -> None:
    """distributed/ names no task of a recommender."""
    for path in files("distributed"):
        found = re.findall(
            r"(?i)(?<![a-z])(?:p?ctr|p?cvr|p?ctcvr|clicks?|clicked|conversions?)(?![a-z])", path.read_text()
        )
        assert not found, f"{path.relative_to(ROOT)} says {sorted(set(found))}"


def test_commands_name_no_system() -> None:
    """jobs/ reaches a system through funnel/registry.py alone, and no file of it is named after one."""
    for path in files("jobs"):
        place = path.relative_to(ROOT)
        strange = {name for name in modules(path) if name.startswith("funnel.") and name.split(".")[1] in systems()}
        assert not strange, f"{place} imports {sorted(strange)}"
        assert not {part.removesuffix(".py") for part in place.parts} & systems(), place


def test_data_imports_in_one_direction() -> None:
    """No file of data/ imports one that imports it, however far round."""
    found = {
        f"data.{path.stem}" if path.parent.name == "data" else f"data.loaders.{path.stem}": {
            name.rpartition(".")[0] for name in modules(path) if name.startswith("data.")
        }
        for path in files("data")
    }
    for start in found:
        seen, todo = set(), [start]
        while todo:
            for name in found.get(todo.pop(), ()):
                assert name != start, f"{start} imports itself through others"
                if name not in seen:
                    seen.add(name)
                    todo.append(name)


def test_nothing_imports_the_entry_points() -> None:
    for room in ALLOWED:
        for path in files(room):
            assert not imported(path) & {"jobs", "benchmarks", "tests"}, path


def test_models_know_no_ranks() -> None:
    for path in files("models"):
        assert "torch.distributed" not in path.read_text(), path


def test_ray_is_used_where_the_design_says() -> None:
    users = {path.relative_to(ROOT).as_posix() for room in ("distributed", "es") for path in files(room)
             if "ray" in imported(path)}  # fmt: skip
    ours = {f"es/{name}.py" for name in ("actor", "deaths", "members", "pool", "ray_pool", "wire")}
    train = {f"distributed/training/{name}.py" for name in ("launch", "ray_group", "ray_local")}
    train.add("distributed/reporting/ray_metrics.py")
    assert users == train | ours


PRIVATE = ("test_cluster_yaml.py", "ray_group.py", "ray_local.py", "test_ray_local.py", "own.py")
"""Ray has no public validator of cluster.yaml, tells nobody whose a placement group is without its dashboard, and has
no switches for the processes that a run on one machine does not need."""


def test_no_private_imports() -> None:
    for room in ROOMS:
        for path in files(room):
            for node in imports(path):
                if isinstance(node, ast.ImportFrom) and node.module and path.name not in PRIVATE:
                    assert not re.search(r"(^|\.)_(?!_)", node.module), f"{path}: {node.module}"


def test_no_pickle() -> None:
    for room in ROOMS[:6]:
        for path in files(room):
            assert not imported(path) & {"pickle", "cloudpickle", "joblib", "dill"}, path


UNSAFE = {
    "torch.load",  # unpickles unless told otherwise; ours is safetensors
    "np.load",
    "numpy.load",
    "yaml.load",
    "marshal.loads",
    "shelve.open",
    "os.system",
    "pd.read_pickle",
    "eval",
    "exec",
}
SAFE_WITH = {"torch.load": "weights_only", "np.load": "allow_pickle"}


def test_nothing_that_is_read_is_run() -> None:
    """No loader that runs what it reads, no shell; Ray's pickle only between the processes of one cluster."""
    for room in ROOMS[:6]:
        for path in files(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                safe = SAFE_WITH.get(name)
                told = safe and given.get(safe) == ("True" if safe == "weights_only" else "False")
                assert name not in UNSAFE or told, f"{path}:{node.lineno}: {name}"
                assert given.get("shell") != "True", f"{path}:{node.lineno}: a shell"
                if "cloudpickle" in name:
                    assert path.name in ("wire.py", "find.py"), f"{path}:{node.lineno}: {name}"


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for room in ROOMS for path in files(room)}
    long = {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST}
    assert not long
    code = sorted(length for path, length in lengths.items() if path.parts[-2] != "tests" and length)
    assert code[len(code) // 2] <= MEDIAN


def test_names_that_python_or_pytest_would_trip_over() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert all(path.name.startswith(("test_", "conftest", "support", "mutants")) for path in files("tests"))
    for path in (ROOT / "jobs").iterdir():
        name = path.stem
        assert name not in {*ROOMS, *STANDARD, "ray", "torch"}, path


def test_every_module_says_what_it_is() -> None:
    for room in ROOMS:
        for path in files(room):
            text = path.read_text()
            assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_the_tree_page_is_the_tree() -> None:
    """docs/tree.md is what docs/tree.py writes of the files that are there."""
    written = runpy.run_path(str(ROOT / "docs" / "tree.py"))["page"]()
    assert (ROOT / "docs" / "tree.md").read_text() == written, "run python docs/tree.py"


def test_importing_a_room_starts_nothing() -> None:
    """The light halves stay light: models without Ray, data without torch."""
    for room, banned in (("models.registry", "ray"), ("data.log", "torch"), ("es.algorithms.registry", "torch")):
        program = f"import sys, {room}; sys.exit('{banned}' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0, room
