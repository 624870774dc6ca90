"""The GPU side: one warm pipeline, one job at a time."""

import os

# On import, transformers warns of the torchvision it does without, and diffusers of its own config keys: no news here.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
