"""The processes that train together, one a GPU; one process alone is the case of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(hours=1)  # others wait so long while the first fits the linear start or saves


@dataclass(frozen=True)
class Ranks:
    """This process's place among `count`. Each method is called by all of them at the same point, or all would wait."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Ranks:
        """Join the processes that torchrun (or srun, one task a GPU) has started, and take a GPU of this node."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if "RANK" not in os.environ:
            names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        rank, count, local_rank = (int(os.environ[name]) for name in names)
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
        dist.init_process_group(backend, rank=rank, world_size=count, timeout=TIMEOUT)
        return cls(rank, count)

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor (all of one type and device) by its sum over the processes: the same bits everywhere."""
        if self.count > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.reshape(tensor.shape))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the process that leads."""
        if self.count > 1:
            for tensor in tensors:
                values = tensor.contiguous()
                dist.broadcast(values, 0)
                tensor.copy_(values)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        votes = torch.tensor([float(flag)])
        self.add_up([votes])
        return bool(votes > 0)

    def wait(self) -> None:
        """Go on when all have come here."""
        self.any(False)


ALONE = Ranks()
