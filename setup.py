from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "keras_cvt" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

# Lower bounds are what `make test-oldest` runs. Each upper bound has its reason.

TENSORFLOW = "2.19"  # the oldest that the tests run on; `make test-oldest`

EXPORT = [
    "ai-edge-litert>=2.1,<3",  # the schema and tools that keras_cvt/export/_internal.py uses
    "flatbuffers>=24.3",
    "tf2onnx>=1.17,<1.18",  # the first for TensorFlow 2.19; each release knows other operations
    # Later ones need protobuf 6, which TensorFlow up to 2.19 does not take: pip would replace the
    # protobuf of a TensorFlow that is there already.
    "onnx>=1.17,<1.20",
    "onnxruntime>=1.20",
    "openvino>=2025.0",
]

TRAIN = [
    "tensorflow-datasets>=4.9.9",
    "importlib_resources>=6",  # tensorflow-datasets needs it and does not say so
    # With protobuf 5, which TensorFlow 2.19 has, later ones fail when they are imported, and
    # tensorflow-datasets hides that.
    "tensorflow-metadata<1.18",
    # tensorflow-metadata brings them. Later ones need protobuf 6, which TensorFlow 2.19 does not take:
    # pip would replace its protobuf.
    "googleapis-common-protos<1.75.1",
    "keras-cv>=0.9,<0.10",  # its layers' options are ours; there has been no release since
    "scikit-learn>=1.5",  # the digits
    "matplotlib>=3.9",  # the curves
    "tensorboard>=2.19",  # TensorFlow from 2.21 on does not bring it
]

# What each extra is for. Those that name no backend leave the one that is installed as it is.
EXTRAS = {
    # a backend
    "tensorflow": [f"tensorflow>={TENSORFLOW}"],
    "gpu": [f"tensorflow[and-cuda]>={TENSORFLOW}"],  # with CUDA's libraries
    # Importing tensorflow-tpu with a later libtpu aborts the process.
    "tpu": ["tensorflow-tpu>=2.20,<2.21", "libtpu>=0.0.14,<=0.0.30"],
    "jax": ["jax>=0.4.36"],
    "torch": ["torch>=2.5"],
    # python -m training.*: data sets, keras-cv's augmentation, the digits and the curves
    "train": TRAIN,
    # python -m training.search, beside "train"
    "search": ["optuna>=5,<6"],  # each major version changes what a study keeps
    # keras-cvt export: the converters, and the runtimes in which each file is verified
    "export": EXPORT,
    # keras-cvt predict and embed --output, and lists and files that pyarrow reads
    "parquet": ["pyarrow>=17"],
    # the same with --engine ray. The engine relies on details of Ray Data, which change between minor
    # versions: that a lost worker's block is passed over, and that items need no task that reads them.
    "ray": ["ray[data]>=2.60,<2.61"],
    # keras_cvt.hub: the release that the tests run on; it asks for Keras 3.15. It brings
    # tensorflow-text, and with that TensorFlow 2.21, whatever the backend: docs/kerashub.md says how
    # to do without.
    "hub": ["keras-hub>=0.32"],
    # pictures: plot_attention and keras-cvt explain
    "plot": ["matplotlib>=3.9"],
    # colab/, beside "train": LiteRT, and TensorFlow Serving's messages
    "notebooks": [
        "ai-edge-litert>=2.1,<3",
        "flatbuffers>=24.3",
        "tensorflow-serving-api>=2.19",
    ],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.7",  # on as many cores as there are: TensorFlow's tracing uses one
        "hypothesis>=6.100",
        "ruff>=0.17,<0.18",  # each minor version formats in another way
        "scikit-learn>=1.5",  # two real photos
        "foolbox>=3.3.4,<3.4",  # twenty more, with ImageNet labels
        "matplotlib>=3.9",
    ],
    # the site of docs/. Zensical, the successor of mkdocs-material (kept until May 2027), reads
    # the same config, but up to 0.1 it has no hooks and lets wrong docstrings pass.
    "docs": ["mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1,<2"],
    # beside "test", where the backend is TensorFlow: all runtimes, and TensorFlow Serving's messages
    "test-export": [*EXPORT, "tensorflow-serving-api>=2.19"],
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
    python_requires=">=3.11",  # as Keras from 3.13 on
    packages=find_packages(include=["keras_cvt", "keras_cvt.*"]),
    package_data={
        "keras_cvt": ["py.typed", "images/imagenet_labels.txt"],
        "keras_cvt.export": ["astronaut.jpg"],
    },
    install_requires=[
        # The oldest that the tests run on. Private names that a later one moves are told by
        # tests/keras_cvt/test_keras_internal.py and tests/training/test_internal.py.
        "keras>=3.10",
        "numpy>=1.26",
        "h5py>=3.11",
        "huggingface_hub>=0.34,<3",
        "safetensors>=0.7",  # the first that reads complex64, which the library writes
        "ml_dtypes>=0.4",  # bfloat16 in numpy
        "tqdm>=4.60",
        "pillow>=10.1",  # images, resized exactly as the official evaluation does it
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["keras-cvt = keras_cvt.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
