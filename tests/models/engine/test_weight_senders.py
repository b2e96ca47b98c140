"""GPU weight backends, as far as a machine without a GPU goes: vLLM reads the messages."""

from __future__ import annotations

import os

import pytest
import torch
from vllm.distributed.weight_transfer.ipc_engine import (
    IPCWeightTransferInitInfo,
    IPCWeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.packed_tensor import PackedIpcChunk
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from models.engine.weight_senders import (
    NcclSender,
    drain,
    ipc_handshake,
    ipc_message,
    make,
    nccl_handshakes,
)
from models.engine.weight_transfer import update_info


def test_every_worker_has_a_rank_of_its_own_and_the_same_wire() -> None:
    master, infos = nccl_handshakes("10.0.0.1", 4242, engines=3, tensor_parallel=2)
    parsed = [NCCLWeightTransferInitInfo(**info) for info in infos]
    ranks = [0]
    for info in parsed:
        # As vLLM counts within an engine.
        ranks += [info.rank_offset, info.rank_offset + 1]
        assert info.master_address == "10.0.0.1"
        assert info.master_port == 4242
        assert info.world_size == 7
        assert info.packed
        assert info.packed_buffer_size_bytes == parsed[0].packed_buffer_size_bytes
    assert ranks == list(range(master["world_size"]))
    update = update_info("nccl", ["a"], ["bfloat16"], [[3, 5]], {})
    assert NCCLWeightTransferUpdateInfo(**update).shapes == [[3, 5]]


def test_ipc_messages_pass_through_vllms_wire_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # as the engine sets it
    # The arguments of torch's `rebuild_cuda_tensor`, which `reduce_tensor` gives for a tensor on a
    # GPU.
    handle = (
        torch.Tensor,
        torch.Size([32]),
        (1,),
        0,
        torch.UntypedStorage,
        torch.uint8,
        0,
        b"\x00mem",
        32,
        0,
        False,
        b"ref",
        0,
        b"event",
        True,
    )
    chunk = PackedIpcChunk(
        ["a", "b"],
        [[2, 4], [8]],
        ["bfloat16", "bfloat16"],
        [16, 16],
        {"GPU-1": handle},
    )
    wired = MsgpackDecoder().decode(MsgpackEncoder().encode(ipc_message(chunk)))
    update = IPCWeightTransferUpdateInfo(**wired)
    assert update.ipc_handles == {"GPU-1": handle}
    assert update.tensor_sizes == [16, 16]
    assert update.names == chunk.names
    assert update.dtype_names == chunk.dtype_names
    assert update.shapes == chunk.shapes
    assert IPCWeightTransferInitInfo(**ipc_handshake()).packed


def test_an_engine_with_ipc_may_read_pickled_handles() -> None:
    """Without the switch vLLM refuses them: it must be the engine that sets it."""
    chunk = PackedIpcChunk(["a"], [[1]], ["uint8"], [1], {"GPU-1": ()})
    message = ipc_message(chunk)
    assert os.environ.get("VLLM_ALLOW_INSECURE_SERIALIZATION") != "1"
    with pytest.raises(ValueError, match="VLLM_ALLOW_INSECURE_SERIALIZATION"):
        IPCWeightTransferUpdateInfo(**message)


def test_a_rank_that_is_not_connected_takes_part_in_gathering() -> None:
    asked: list[str] = []

    def tensors():
        for name in ("a", "b"):
            asked.append(name)
            yield name, torch.zeros(1)

    NcclSender().send(tensors())
    assert asked == ["a", "b"]
    drain(tensors())
    assert asked == ["a", "b"] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_without_cuda_there_is_one_clear_error(backend: str) -> None:
    with pytest.raises(
        ValueError, match=f"cluster.weight_backend={backend} needs GPUs; use object_store"
    ):
        make(backend)
