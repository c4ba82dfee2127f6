"""The walls between the packages: which module may import which, and that nothing is pickled."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.support import run_main

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted([*ROOT.glob("*.py"), *(ROOT / "llama").rglob("*.py")])
CLOUD_ONLY = ("llama.cloud", "model_cloud", "cloud_main")


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(file): file for file in PRODUCT}
SHARED = ("llama.text", "llama.disk", "llama.files", "llama.toml", "llama.errors")
EDGE_ONLY = (
    "llama.edge",
    "llama.edge.generation",
    "llama.prompt",
    "model_edge",
    "edge_main",
    *(m for m in map(module_of, PRODUCT) if m.startswith("llama.privacy.") and m != "llama.privacy.policy"),
)


@cache
def imports_of(file: Path) -> tuple[str, ...]:
    """Return the modules that a file imports, wherever in it."""
    imported = list[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(imported)


def reached(module: str, seen: set[str]) -> set[str]:
    """``seen``, with a module of the product and all those that it imports, and they import."""
    if module in FILES and module not in seen:
        seen.add(module)
        for imported in imports_of(FILES[module]):
            reached(imported, seen)
    return seen


def belongs_to(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_edge_and_cloud_never_meet() -> None:
    """What runs on the device imports nothing of the cloud's, and the reverse: also across what each one imports.

    But for the device's half of the model, through which the cloud's program runs the provider's own words.
    """
    from_edge, from_cloud = reached("edge_main", set()), reached("cloud_main", set())
    assert {"llama.client.link", "model_edge", "llama.model"} <= from_edge  # the walk does follow imports
    assert {"llama.cloud.server", "model_cloud", "llama.model"} <= from_cloud
    assert not [module for module in from_edge if belongs_to(module, CLOUD_ONLY)]
    assert [module for module in from_cloud if belongs_to(module, EDGE_ONLY)] == ["model_edge"]


@cache
def reached_from(module: str) -> frozenset[str]:
    """Return the modules, ours and others, that importing ``module`` may import, at its top or within a function."""
    reached, left = set[str](), [module]
    while left:
        if (name := left.pop()) not in reached:
            reached.add(name)
            left += [n for i in (name, f"{name}.__init__") if i in FILES for n in imports_of(FILES[i])]
    return frozenset(reached)


WITHOUT_TORCH = (
    "llama.wire",
    "llama.client",
    "llama.vendor",
    "llama.status",
    "llama.keys",
    "llama.privacy",
    "llama.sheets",
    "llama.model_args",
    "llama.cloud.run_store",
    "llama.cloud.importing",
    "llama.cloud.catalogue",
    "llama.cloud.offers",
    "llama.cloud.backup",
    "llama.cloud.restore",
)
NEVER_MEET = (
    # a package, and what it never reaches
    ("llama.wire", ("llama.client", "llama.edge", "llama.cloud", "llama.privacy", "llama.checkpoint", "llama.model")),
    ("llama.client", ("llama.edge", "llama.cloud", "llama.privacy", "llama.checkpoint", "llama.vendor")),
    ("llama.vendor", ("llama.edge", "llama.cloud", "llama.privacy", "llama.checkpoint", "llama.model")),
    ("llama.status", ("llama.edge", "llama.cloud", "llama.privacy", "llama.checkpoint", "llama.model")),
    ("llama.privacy", ("llama.edge", "llama.cloud", "llama.client", "llama.checkpoint", "llama.model")),
    ("llama.edge", ("llama.cloud", "llama.vendor", "llama.sampler")),
    ("llama.edge.web", ("llama.edge.terminal", "llama.edge.terminal_run", "llama.edge.keyboard")),
    ("llama.edge.terminal", ("llama.edge.web",)),
    ("llama.edge.terminal_run", ("llama.edge.web",)),
    ("llama.edge.pipeline", ("llama.edge.web", "llama.edge.terminal", "llama.screen")),
    ("llama.cloud", ("llama.edge", "llama.vendor", "llama.client", "llama.privacy")),
    ("llama.checkpoint", ("llama.edge", "llama.cloud", "llama.client", "llama.vendor", "llama.privacy")),
)


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_whoever_needs_no_tensor_never_reaches_torch(package: str) -> None:
    """Not at the top of a module, not within a function."""
    for module in map(module_of, PRODUCT):
        if belongs_to(module, (package,)):
            assert not {name for name in reached_from(module) if name.split(".")[0] in {"torch", "numpy", "fairscale"}}


@pytest.mark.process
def test_a_fresh_interpreter_with_the_contract_and_its_programs_has_neither_torch_nor_numpy() -> None:
    """Nor through a library that they use."""
    modules = "llama.wire, llama.vendor.program, llama.status, llama.keys, llama.cloud.backup, llama.cloud.importing"
    loaded = run_main("-c", f"import sys, {modules}; print(*sys.modules)").stdout.split()
    assert "msgspec" in loaded and not {"torch", "numpy"} & set(loaded)


@pytest.mark.parametrize(("package", "others"), NEVER_MEET, ids=[package for package, _ in NEVER_MEET])
def test_packages_that_never_meet(package: str, others: tuple[str, ...]) -> None:
    """Each imports only from below; what runs in one place never loads what runs in another."""
    for module in map(module_of, PRODUCT):
        if belongs_to(module, (package,)):
            assert not [name for name in reached_from(module) if belongs_to(name, others)], module


def test_no_module_imports_itself_through_others() -> None:
    """Packages count as what is imported of them."""
    ours = {module_of(file): set(imports_of(file)) for file in PRODUCT}
    for module in ours:
        left, seen = [name for name in ours[module] - {module} if name in ours], set[str]()
        while left:
            if (name := left.pop()) not in seen:
                seen.add(name)
                left += [imported for imported in ours[name] if imported in ours]
        assert module not in seen, module


def test_what_all_share_needs_nothing_but_itself() -> None:
    """How texts, files and disks are is known without any of the parts that use it, and without torch."""
    modules = {module for module in FILES if belongs_to(module, SHARED)}
    assert {"llama.text.money", "llama.disk", "llama.files"} <= modules
    for module in sorted(modules):
        assert reached(module, set()) <= modules, module
        assert not [name for name in imports_of(FILES[module]) if belongs_to(name, ("torch",))], module


@pytest.mark.parametrize("file", [f for f in PRODUCT if f.parent != ROOT], ids=module_of)
def test_the_package_never_imports_the_programs(file: Path) -> None:
    """Nor tests."""
    programs = tuple(module_of(f) for f in PRODUCT if f.parent == ROOT)
    assert not [name for name in imports_of(file) if belongs_to(name, (*programs, "tests"))]


def test_nothing_is_pickled() -> None:
    """Of pickle only its exception is known, nothing like it is imported, every torch.load says weights_only=True."""
    for file in PRODUCT:
        assert not {"dill", "cloudpickle", "marshal", "shelve"} & set(imports_of(file)), file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "pickle", file
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                assert node.attr == "UnpicklingError", file
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), file
