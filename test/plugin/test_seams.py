"""The table has what of SGLang the code touches, and the page shows it."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import seams_page
import sglang_marconi
from sglang_marconi import cache, observe
from sglang_marconi.cpu import replacements
from sglang_marconi.seams import SEAMS, Kind, Seam, check_seam, hook
from sglang_marconi.seams.table import RESOLVE

ROOT = Path(__file__).parents[2]
PACKAGE = Path(inspect.getfile(sglang_marconi)).parent
ALL = (*SEAMS, *replacements.SEAMS)
TARGETS = {seam.target for seam in ALL}

# Of the standard library: what begins with an underscore and is no less public.
_PUBLIC = {"_asdict", "_exit", "_fields", "_replace", "_value_"}
# The group of entry points that the plugin is found by.
_NO_TARGET = {"sglang.srt.plugins"}
_BY_NAME = ("getattr", "setattr", "hasattr", "delattr")


def our_classes() -> set[type]:
    """Those of the folders whose classes have bases of SGLang's."""
    return {
        found
        for folder in (cache, observe)
        for module in pkgutil.walk_packages(folder.__path__, f"{folder.__name__}.")
        for found in vars(import_module(module.name)).values()
        if inspect.isclass(found) and found.__module__.startswith("sglang_marconi.")
    }


# Found here, as to import SGLang changes the environment, which no test may do.
CLASSES = our_classes()


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined_in(tree: ast.AST) -> Iterator[str]:
    """Names that the code gives to something of its own."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self")):
                yield name


def used_in(tree: ast.AST) -> Iterator[str]:
    """Attributes, names imported, and attributes asked for by name."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield name
            case ast.ImportFrom(module=module, names=aliases):
                yield from (module or "").split(".")
                yield from (alias.name for alias in aliases)
            case ast.Import(names=aliases):
                yield from (part for alias in aliases for part in alias.name.split("."))
            case ast.Call(func=ast.Name(id=function), args=[_, ast.Constant(value=str(name)), *_]):
                if function in _BY_NAME:
                    yield name


def targets_in(tree: ast.AST) -> Iterator[str]:
    """Dotted paths of SGLang, written as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.rstrip(".")
            if text.startswith("sglang.") and text.replace(".", "_").isidentifier():
                yield text


def missing(sources: dict[Path, str], table: set[str]) -> Iterator[str]:
    """What of SGLang these files touch and the table has not."""
    trees = {path: ast.parse(text) for path, text in sources.items()}
    ours = {name for tree in trees.values() for name in defined_in(tree)}
    listed = {part for target in table for part in target.split(".")}
    for path, tree in trees.items():
        for name in used_in(tree):
            if is_private(name) and name not in ours | listed | _PUBLIC:
                yield f"{path}: {name}"
        for target in targets_in(tree):
            # A table's own beginnings of targets, and the targets.
            known = any(f"{each}.".startswith(f"{target}.") for each in table)
            if not known and target not in _NO_TARGET:
                yield f"{path}: {target}"


def sources() -> dict[Path, str]:
    found = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    assert len(found) > 100
    return found


def test_the_table_has_every_private_name_and_every_target() -> None:
    assert list(missing(sources(), TARGETS)) == []


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        ("tree._evict_everything()", "_evict_everything"),
        ("from sglang.srt.server_args import _deep", "_deep"),
        ("from sglang.srt._hidden import shown", "_hidden"),
        ("import sglang._core", "_core"),
        ("getattr(server_args, '_resolved', None)", "_resolved"),
        ("Seam('sglang.srt.server_args.gone', '', Kind.AFTER, '')", "sglang.srt.server_args.gone"),
        ("path = f'sglang.srt.other.{name}'", "sglang.srt.other"),
    ],
)
def test_what_the_table_lacks_is_found(planted: str, named: str) -> None:
    path = Path("planted.py")
    assert list(missing({**sources(), path: planted}, TARGETS)) == [f"{path}: {named}"]


@pytest.mark.parametrize("name", ["_session_lru_predicate", "_COMMUNICATOR_SPECS", "_is_cpu"])
def test_a_row_that_goes_is_missed(name: str) -> None:
    table = {target for target in TARGETS if not target.endswith(f".{name}")}
    assert any(name in found for found in missing(sources(), table))


def lineage(ours: type) -> tuple[list[type], list[type]]:
    """A class of ours with its bases that are ours too, and its bases in SGLang."""
    of_us = [base for base in ours.__mro__ if base.__module__.startswith("sglang_marconi.")]
    return of_us, [base for base in ours.__mro__ if base.__module__.startswith("sglang.srt.")]


def overridden(ours: type) -> Iterator[str]:
    """What of its bases in SGLang a class has of ours."""
    of_us, bases = lineage(ours)
    for name, value in (item for each in of_us for item in vars(each).items()):
        dunder = name.startswith("__") and name != "__init__"
        method = inspect.isroutine(value) or isinstance(value, property)
        if method and not dunder and any(name in vars(base) for base in bases):
            yield f"{bases[0].__module__}.{bases[0].__qualname__}.{name}"


def test_the_table_has_every_method_that_is_overridden() -> None:
    found = {target for ours in CLASSES for target in overridden(ours)}
    listed = {seam.target for seam in SEAMS if seam.kind is Kind.OVERRIDE}
    assert found == listed


def shared_attributes(path: Path, bases: list[type]) -> Iterator[str]:
    """Private names in a file that the bases of its class in SGLang give to themselves, too."""
    theirs = {
        node.attr
        for base in bases
        for node in ast.walk(ast.parse(inspect.getsource(base)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id == "self"
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr in theirs:
            yield node.attr


def test_the_table_has_private_attributes_that_bases_have_too() -> None:
    listed = {part for target in TARGETS for part in target.split(".")}
    shared: set[str] = set()
    for ours in CLASSES:
        of_us, bases = lineage(ours)
        for file in {inspect.getfile(each) for each in of_us} if bases else ():
            shared |= set(shared_attributes(Path(file), bases))
    assert "_evict_device_request_cnt" in shared
    assert shared <= listed


def test_hooks_are_made_from_the_table_alone() -> None:
    makers = {
        path.relative_to(PACKAGE).as_posix()
        for path, text in sources().items()
        if any(name == "HookRegistry" for name in used_in(ast.parse(text)))
    }
    assert makers == {"seams/hooks.py"}
    rows = {
        path.relative_to(PACKAGE).as_posix() for path, text in sources().items() if "Seam(" in text
    }
    tables = {f"cpu/{name}.py" for name in ("replacement", "replacements", "surroundings")}
    assert rows == tables | {f"seams/{name}.py" for name in ("forward", "seam", "table", "tree")}
    with pytest.raises(KeyError):
        hook(RESOLVE._replace(kind=Kind.CALL), print)


def test_targets_are_listed_once() -> None:
    # What is replaced on a CPU may be hooked there as elsewhere.
    for table in (SEAMS, replacements.SEAMS):
        assert len({seam.target for seam in table}) == len(table)


def test_an_attribute_of_instances_is_found_and_missed() -> None:
    target = "sglang.srt.managers.scheduler.Scheduler._request_dispatcher"
    check_seam(Seam(target, None, Kind.WRITE, ""))
    with pytest.raises(sglang_marconi.seams.IncompatibleSGLang, match="_request_sender_of_old"):
        check_seam(Seam(target.replace("dispatcher", "sender_of_old"), None, Kind.WRITE, ""))


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "seams.md").read_text()
    assert page == seams_page.page(), "python scripts/seams_page.py > docs/seams.md"
