"""The GPU side: one warm pipeline, one job at a time."""

import os

# On import, transformers warns of the torchvision it does without, and diffusers of its own config keys: no news here.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# Tensors of 2 MiB and more in pages of that size, where the system has them: a frame of 1280x768 touches a fifteenth as
# many, which takes a fifth to a third less time. Read by torch at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
