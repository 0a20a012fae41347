"""This library on one GPU, beside the official function and its peers: `python -m benchmarks.gpu`.

Inference and training steps of CvT-13 and CvT-W24 on Keras' JAX and torch backends, in turns with
Hugging Face's CvT in torch, eager and compiled, and with models of timm, KerasHub and Keras of about
the same accuracy. Beside images per second: FLOP/s (two for a multiply-add of
`keras_cvt.complexity(...).computed`, for whoever computes the function; a training step counts three
times), their share of what the product of two random matrices of 8192x8192 reaches in the same run,
and memory. The longest kernels of some contenders are listed.

Each contender is a process, in .venv-jax or .venv-torch where `make peers` has made them, else in the
environment that runs this; `--device cpu --batch 2 --size 64` tries all of it out without a GPU. Cases
come in the order of their importance; --minutes says when to end. A contender that fails has its
error in the report. `--resume --json FILE` goes on with what a file lacks, `--table FILE` prints it.
"""
