"""What `import keras_cvt` does, and does not do."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import keras_cvt
from keras_cvt import _lazy


def test_public_names_are_the_same_for_type_checkers_and_at_run_time():
    tree = ast.parse(Path(keras_cvt.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module.removeprefix("keras_cvt").lstrip(".")
        for node in block.body
        for alias in node.names
    }
    lazy = {name: module for module, names in _lazy.NAMES.items() for name in names}
    assert imported == lazy | dict.fromkeys(_lazy.MODULES, "")
    assert sorted(imported) == sorted(keras_cvt.__all__)
    assert set(keras_cvt.__all__) <= set(dir(keras_cvt))
    for name, module in lazy.items():
        home = importlib.import_module(f"keras_cvt.{module}")
        assert getattr(keras_cvt, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'CvT14'"):
        _ = keras_cvt.CvT14


def test_keras_is_imported_when_it_is_needed_and_its_layers_are_known_then():
    code = """
import sys, keras_cvt, keras_cvt._files, keras_cvt._validation
print(sorted({"keras", "numpy", "tensorflow"} & {*sys.modules}))
import keras
print(keras.saving.get_registered_object("keras_cvt>CvTBlock").__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "CvTBlock"]


def test_what_follows_keras_is_imported_once_after_it(tmp_path, monkeypatch):
    """With a Keras of two lines, in a process that has none."""
    (tmp_path / "keras.py").write_text("print('keras'); done = True\n")
    (tmp_path / "layers.py").write_text("import keras; print('layers', keras.done)\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from keras_cvt import _lazy
sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _lazy._AfterKeras)]
_lazy.with_keras("layers")
import importlib.util
importlib.util.find_spec("keras")  # who only looks imports nothing
import keras, inspect
print("keras" in inspect.getsource(keras), "layers" in sys.modules)
_lazy.with_keras("layers")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["keras", "layers True", "True True"]
