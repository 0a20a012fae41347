from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "keras_cvt" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

EXPORT = [
    "tensorflow>=2.21,<2.22",
    "ai-edge-litert>=2.3,<3",
    "flatbuffers>=25,<26",
    "tf2onnx>=1.17,<1.18",
    "onnx>=1.23,<2",
    "onnxruntime>=1.31,<2",
    "openvino>=2026.4,<2027",
]

# What each extra is for:
EXTRAS = {
    # a backend; keras also runs on jax or torch, which bring their own installation advice
    "tensorflow": ["tensorflow>=2.21,<2.22"],
    # python -m training.*: data sets, keras-cv's augmentation, the digits and the curves
    "train": [
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.10,<4.10",
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not say so
        "keras-cv>=0.9,<0.10",
        "scikit-learn>=1.5",
        "matplotlib>=3.9",
    ],
    # keras-cvt export: the converters, and the runtimes in which each file is verified
    "export": EXPORT,
    # pictures: plot_attention and keras-cvt explain
    "plot": ["matplotlib>=3.9"],
    # colab/, beside "train": LiteRT, and TensorFlow Serving's messages
    "notebooks": [
        "ai-edge-litert>=2.3,<3",
        "flatbuffers>=25,<26",
        "tensorflow-serving-api>=2.21,<2.22",
    ],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.7",  # on as many cores as there are: TensorFlow's tracing uses one
        "hypothesis>=6.100",
        "ruff>=0.17,<0.18",
        "scikit-learn>=1.5",  # two real photos
        "foolbox>=3.3.4,<3.4",  # twenty more, with ImageNet labels
        "matplotlib>=3.9",
    ],
    # beside "test", where the backend is TensorFlow: all runtimes, and TensorFlow Serving's messages
    "test-export": [*EXPORT, "tensorflow-serving-api>=2.21,<2.22"],
    # beside "train", "test" and "test-export": colab/ is executed
    "test-notebooks": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
}

setup(
    name="keras_cvt",
    version=VERSION,
    description="CvT, the Convolutional vision Transformer, for Keras 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",  # as Keras 3.15
    packages=find_packages(include=["keras_cvt", "keras_cvt.*"]),
    package_data={
        "keras_cvt": ["py.typed", "images/imagenet_labels.txt"],
        "keras_cvt.export": ["astronaut.jpg"],
    },
    install_requires=[
        "keras>=3.15,<3.16",
        "numpy>=1.26",
        "h5py>=3.11",
        "huggingface_hub>=0.34,<3",
        "safetensors>=0.5",
        "ml_dtypes>=0.4",  # bfloat16 in numpy
        "tqdm>=4.60",
        "pillow>=10.1",  # images, resized exactly as the official evaluation does it
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["keras-cvt = keras_cvt.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
