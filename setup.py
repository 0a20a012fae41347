from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "keras_cvt" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

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
    # keras' own export to a SavedModel
    "export": ["tensorflow>=2.21,<2.22"],
    # what a notebook server does not bring: the backend, and plots
    "notebooks": ["tensorflow>=2.21,<2.22", "matplotlib>=3.9"],
    "test": [
        "pytest>=8",
        "hypothesis>=6.100",
        "ruff>=0.17,<0.18",
        "scikit-learn>=1.5",  # two real photos
        "foolbox>=3.3.4,<3.4",  # twenty more, with ImageNet labels
    ],
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
    package_data={"keras_cvt": ["py.typed", "imagenet_labels.txt"]},
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
