"""What `import keras_cvt` does, and does not do."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import keras_cvt


@pytest.mark.parametrize("package", [keras_cvt, keras_cvt.weights])
def test_public_names_are_the_same_for_type_checkers_and_at_run_time(package):
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(checked) == sorted(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    for name, module in checked.items():
        home = importlib.import_module(module)
        assert package.__getattr__(name) is getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'CvT14'"):
        _ = package.CvT14


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
