"""Being here puts tests/ on the import path, so that every room's tests can import tiny_models."""

import ssgr  # noqa: F401, I001  before torch: it decides how torch's threads wait for each other
import torch

torch.set_num_threads(2)
