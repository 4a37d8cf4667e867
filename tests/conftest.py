"""Being here puts tests/ on the import path, so that every room's tests can import tiny_models."""

import torch

torch.set_num_threads(2)
