"""The rules of the house, read off the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("beam_pipelines", "trainer", "eval_jobs", "k8s")
PACKAGES = ("boceto", *PROGRAMS)
# k8s/prometheus/ holds programs of their own, as benchmarks/ does.
SOURCES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "prometheus" not in path.parts
)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _uses(path: Path, pattern: str) -> bool:
    return re.search(pattern, path.read_text()) is not None


def test_there_is_something_to_check():
    assert len(SOURCES) > 30
    assert all((ROOT / package / "__init__.py").exists() for package in PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_boceto_imports_no_program_and_programs_import_no_other(path):
    own = path.relative_to(ROOT).parts[0]
    foreign = {name.partition(".")[0] for name in _imports(path)} & set(PROGRAMS) - {own}
    assert not foreign


def test_boceto_imports_no_beam_and_no_tensorflow():
    used = {name.partition(".")[0] for path in (ROOT / "boceto").rglob("*.py") for name in _imports(path)}
    assert not used & {"apache_beam", "tensorflow", "keras"}


def test_eval_imports_neither_keras_nor_beam_and_prepare_no_tensorflow():
    used = {
        program: {name.partition(".")[0] for path in (ROOT / program).rglob("*.py") for name in _imports(path)}
        for program in PROGRAMS
    }
    assert not used["eval_jobs"] & {"keras", "apache_beam"}
    assert not used["beam_pipelines"] & {"tensorflow", "keras"}
    assert "apache_beam" not in used["trainer"]


def test_argv_is_read_in_main_alone():
    readers = {_name(path) for path in SOURCES if _uses(path, r"\bsys\.argv\b")}
    assert {Path(name).name for name in readers} == {"__main__.py"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_environment_is_touched_in_at_most_one_module_a_program(package):
    users = [
        _name(path) for path in SOURCES if path.is_relative_to(ROOT / package) and _uses(path, r"os\.(environ|getenv)")
    ]
    assert len(users) <= 1


def test_storage_is_opened_through_the_port():
    pattern = r"(?<![\w.])open\(|\.open\(|\.(read|write)_(bytes|text)\(|np\.(savez?|load)\((?!file\b|io\.BytesIO)"
    through_port = r"storage\.(read_bytes|write_bytes)\("
    allowed = {
        "boceto/storage.py",
        "boceto/stores/file.py",
        "boceto/stores/gs.py",
        "boceto/stores/memory.py",
        "boceto/staging.py",  # its own folder on this machine, with locks
        "boceto/environment.py",  # the termination message, a file of the pod
        "boceto/settings.py",  # --config, a local file that a person names
    }
    for path in SOURCES:
        text = re.sub(through_port, "", path.read_text()).replace("os.open(os.devnull", "")
        # What was read through the port.
        text = text.replace("Image.open(io.BytesIO(", "").replace("archive.open(info)", "")
        text = re.sub(r"def open\(|_adapter\(url\)\.open\(|self\.open\(", "", text)
        assert _name(path) in allowed or not re.search(pattern, text), _name(path)


def test_metric_names_are_written_in_telemetry_alone():
    users = {_name(path) for path in SOURCES if _uses(path, r"[\"']boceto_[a-z_]+[\"']")}
    assert users <= {"boceto/telemetry.py"}
    users = {_name(path) for path in SOURCES if _uses(path, "prometheus_client")}
    assert users <= {"boceto/exposition.py"}


def test_no_global_seed_is_set():
    pattern = r"np\.random\.seed|(?<!\.)\brandom\.seed\(|set_random_seed|tf\.random\.set_seed"
    assert not [_name(path) for path in SOURCES if _uses(path, pattern)]


def test_modules_of_a_package_import_each_other_without_a_cycle():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}

    def top_level(path):
        found = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        return found & set(names)

    edges = {name: top_level(path) - {name} for name, path in names.items()}
    done: set[str] = set()

    def walk(name, above):
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for other in edges[name]:
                # A package's __init__ stands above its modules; importing it from below is no cycle of ours.
                if not name.startswith(f"{other}."):
                    walk(other, [*above, name])
            done.add(name)

    for name in edges:
        walk(name, [])


def test_help_needs_no_heavy_library():
    script = (
        "import sys\nfrom boceto.__main__ import main\nmain(['--help'])\n"
        "heavy = {'tensorflow', 'apache_beam', 'numba', 'numpy', 'keras'} & set(sys.modules)\nsys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for verb in ("prepare", "train", "eval", "demo"):
        assert f"boceto {verb}" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda path: path.name)
def test_a_decision_record_is_short(path):
    assert len(path.read_text().splitlines()) <= 60
