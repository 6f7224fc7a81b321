"""The house rules: who imports whom, how long a file may be, what the README says stands where."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "distributed", "es", "funnel", "jobs", "models", "benchmarks", "tests")
STANDARD = sys.stdlib_module_names

# What each room may import beside itself and the standard library.
ALLOWED = {
    "models": {"torch"},
    "data": {"numpy", "pyarrow", "fsspec"},
    "es": {"numpy", "ray", "safetensors", "filelock", "gymnasium", "cma"},
    "funnel": {"data", "models", "es", "torch", "numpy", "pyarrow", "scipy", "sklearn"},
    "distributed": {"funnel", "models", "data", "torch", "numpy", "ray", "safetensors", "tensorboardX"},
}
LONGEST = 350
MEDIAN = 160


def files(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
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
    ours = {"es/actor.py", "es/members.py", "es/pool.py", "es/ray_pool.py", "es/tune.py"}
    train = {f"distributed/{name}.py" for name in ("training/launch", "training/ray_group", "reporting/ray_metrics")}
    assert users == train | ours


VALIDATES_WITH_RAY = "test_cluster_yaml.py"  # Ray has no public validator of cluster.yaml


def test_no_private_imports() -> None:
    for room in ROOMS:
        for path in files(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module and path.name != VALIDATES_WITH_RAY:
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
                    assert path.name in ("actor.py", "evolve_objective.py"), f"{path}:{node.lineno}: {name}"


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for room in ROOMS for path in files(room)}
    long = {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST}
    assert not long
    code = sorted(length for path, length in lengths.items() if path.parts[-2] != "tests" and length)
    assert code[len(code) // 2] <= MEDIAN


def test_names_that_python_or_pytest_would_trip_over() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert all(path.name.startswith(("test_", "conftest")) for path in files("tests"))
    for path in (ROOT / "jobs").iterdir():
        name = path.stem
        assert name not in {*ROOMS, *STANDARD, "ray", "torch"}, path


def test_every_module_says_what_it_is() -> None:
    for room in ROOMS:
        for path in files(room):
            text = path.read_text()
            assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_the_readme_tree_is_the_tree() -> None:
    """Every Python file stands in README's tree by its name, and nothing stands there that is gone."""
    tree = (ROOT / "README.md").read_text().split("## The tree", 1)[1].split("```")[1]
    named = set(re.findall(r"[\w/.-]+\.(?:py|md|yaml|toml|txt|j2|css)|Makefile|LICENSE", tree))
    listed = {Path(name).name for name in named}
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    code = {Path(path).name for path in tracked if path.endswith(".py") and not path.startswith("tests/")}
    missing = {name for name in code if name != "__init__.py"} - listed
    assert not missing, f"README's tree lacks {sorted(missing)}"
    gone = listed - {Path(path).name for path in tracked}
    assert not gone, f"README's tree names {sorted(gone)}, which do not exist"


def test_importing_a_room_starts_nothing() -> None:
    """The light halves stay light: models without Ray, data without torch."""
    for room, banned in (("models.registry", "ray"), ("data.log", "torch"), ("es.algorithms.registry", "torch")):
        program = f"import sys, {room}; sys.exit('{banned}' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0, room
