"""What is free in a container, which devices there are, and that the caller's torch contexts do not matter."""

import numpy as np
import pytest
import torch

from inlier import InlierError, machine
from inlier.machine import container_memory, device_name, find_device, free_memory, in_double, own_torch_state

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def group(folder, names, limit, used, cached):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 7\n{names[2]} {cached}\nslab 1\n")


def test_a_container_of_version_2(tmp_path):
    group(tmp_path, V2, 1000, 700, 200)
    assert container_memory(tmp_path) == 500
    group(tmp_path, V2, "max", 700, 200)
    assert container_memory(tmp_path) is None


def test_a_container_of_version_1(tmp_path):
    group(tmp_path / "memory", V1, 1000, 700, 200)
    assert container_memory(tmp_path) == 500
    group(tmp_path / "memory", V1, 9223372036854771712, 700, 200)
    assert container_memory(tmp_path) is None


@pytest.mark.parametrize("names, top, own", [(V2, "", "0::/a/b\n"), (V1, "memory", "5:cpu:/x\n4:memory:/a/b\n0::/\n")])
def test_the_tightest_of_nested_groups_counts(names, top, own, tmp_path):
    group(tmp_path / top / "a/b", names, 900, 100, 0)
    group(tmp_path / top / "a", names, 600, 300, 100)
    assert container_memory(tmp_path, own) == 400
    assert container_memory(tmp_path, own.replace("/a/b", "/elsewhere")) is None


def test_no_limit_where_there_are_no_groups(tmp_path, monkeypatch):
    assert container_memory(tmp_path / "nothing", "0::/a\n") is None
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "nothing")
    assert free_memory() > 2**20
    group(tmp_path, V2, 1000, 700, 200)
    assert free_memory(torch.device("cpu")) == 500


def test_a_container_that_is_full_has_nothing_left(tmp_path):
    group(tmp_path, V2, 1000, 1100, 0)
    assert container_memory(tmp_path) == 0


def test_devices(monkeypatch):
    assert find_device("cpu") == torch.device("cpu")
    for name in ("gpu", "meta", "cuda:99"):
        with pytest.raises(InlierError, match=f"device '{name}' cannot be used here"):
            find_device(name)
    monkeypatch.setenv("LOCAL_RANK", "77")  # one of several processes has a GPU of its own
    with pytest.raises(InlierError, match="device 'cuda:77' cannot be used here"):
        find_device("cuda")


def test_a_gpu_is_told_by_its_name(monkeypatch):
    assert device_name(torch.device("cpu")) == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, number {device.index}")
    assert device_name(torch.device("cuda:1")) == "cuda:1, a GPU, number 1"


def test_in_double_keeps_the_device():
    assert in_double(torch.ones(2, dtype=torch.float16)).dtype == torch.float64
    assert in_double(torch.empty(2, device="meta")).device.type == "meta"


def step():
    """The weight after a step, made, trained and used within our own state."""
    with own_torch_state():
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        layer(torch.ones(4, 3)).square().sum().backward()
        torch.optim.SGD(layer.parameters(), 0.1).step()
        return layer.weight.detach()


@pytest.mark.parametrize(
    "outside",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16), lambda: torch.device("meta")],
)
def test_contexts_of_the_caller_do_not_matter(outside):
    wanted = step()
    with outside():
        found = step()
        grad, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    with outside():
        assert (grad, autocast) == (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
    assert torch.equal(found, wanted) and not found.is_inference()


def test_the_default_number_format_comes_back_whatever_happens():
    wanted = step()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(step(), wanted)
        with pytest.raises(ValueError), own_torch_state():
            raise ValueError
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_machine_is_described_and_its_memory_watched():
    about = machine.about()
    assert about["processor"] and about["cores"] >= 1 and about["onednn"][0].isdigit()
    before = machine.peak_memory()
    block = np.ones(30_000_000)
    assert machine.peak_memory() >= max(before, block.nbytes)


@pytest.mark.parametrize("has, expected", [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({}, "fp32")])
def test_bf16_is_taken_where_the_processor_multiplies_it(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert machine.arithmetic("auto", torch.device("cpu")) == expected
    assert machine.arithmetic("auto", torch.device("cuda")) == "fp32"
    assert [machine.arithmetic(word, torch.device("cpu")) for word in ("fp32", "bf16")] == ["fp32", "bf16"]
