"""The selective scan: against the plain recurrence, closed forms and finite differences, and with bad input."""

import importlib.util
import math
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.ssm import scan_kernel
from talking_portrait.core_models.ssm.selective_scan import selective_scan
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

ON_CPU = ("in_place", "chunked")
ARGUMENTS = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def made(seed=0, batch=2, channels=6, length=13, states=3, groups=2, dtype=torch.float64):
    """Return arguments of a scan, a third of the decay's range stiff."""
    random = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)  # noqa: E731
    weights = (batch, groups, states, length) if groups else (batch, states, length)
    return {
        "u": normal(batch, channels, length),
        "delta": normal(batch, channels, length),
        "A": -torch.exp(normal(channels, states)),
        "B": normal(*weights),
        "C": normal(*weights),
        "D": normal(channels),
        "delta_bias": normal(channels),
    }


def plain_scan(u, delta, A, B, C, D, delta_bias):
    """The recurrence token by token, with softplus, in the dtype given."""
    step = torch.nn.functional.softplus(delta + delta_bias[:, None])
    share = u.shape[1] // B.shape[1]
    B, C = (weights.repeat_interleave(share, 1) for weights in (B, C))
    state = torch.zeros(len(u), *A.shape, dtype=u.dtype)
    outputs = []
    for t in range(u.shape[2]):
        now = step[:, :, t, None]
        state = torch.exp(now * A) * state + now * B[..., t] * u[:, :, t, None]
        outputs.append((C[..., t] * state).sum(-1) + D * u[:, :, t])
    return torch.stack(outputs, -1), state


@pytest.mark.parametrize("backend", ON_CPU)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    share=st.integers(1, 5),
    length=st.integers(1, 40),
    states=st.integers(1, 5),
    groups=st.integers(1, 3),
)
@settings(deadline=None, max_examples=30)
def test_any_shape_gives_the_plain_recurrence(backend, seed, batch, share, length, states, groups):
    arguments = made(seed, batch, share * groups, length, states, groups)
    for found, expected in zip(
        selective_scan(**arguments, delta_softplus=True, backend=backend),
        plain_scan(**arguments),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("softplus", [True, False])
def test_gradients_are_those_of_finite_differences(backend, length, softplus):
    arguments = made(3, batch=2, channels=4, length=length, states=2)
    arguments["delta"] = arguments["delta"].abs() + 0.1
    tensors = [arguments[name].requires_grad_() for name in ARGUMENTS]
    assert torch.autograd.gradcheck(
        lambda *given: selective_scan(*given, delta_softplus=softplus, backend=backend), tensors
    )


def test_gradients_of_float32_are_near_those_of_float64():
    exact = made(5, batch=2, channels=32, length=97, states=16)
    weights = torch.randn(2, 32, 97, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def gradients(scan, dtype):
        tensors = {name: value.to(dtype, copy=True).requires_grad_() for name, value in exact.items()}
        (scan(tensors)[0] * weights.to(dtype)).sum().backward()
        return [tensors[name].grad for name in ARGUMENTS]

    expected = gradients(lambda tensors: plain_scan(**tensors), torch.float64)
    for backend in ON_CPU:
        found = gradients(
            lambda tensors, chosen=backend: selective_scan(**tensors, delta_softplus=True, backend=chosen),
            torch.float32,
        )
        for value, other in zip(found, expected, strict=True):
            assert (value - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("backend", ON_CPU)
def test_only_what_asks_for_a_gradient_gets_one(backend):
    arguments = made()
    arguments["B"].requires_grad_()
    out, last_state = selective_scan(**arguments, backend=backend)
    (out.sum() + last_state.sum()).backward()
    assert arguments["B"].grad.abs().min() > 0
    assert arguments["u"].grad is None


@pytest.mark.parametrize("backend", ON_CPU)
def test_an_output_left_unused_needs_no_gradient(backend):
    arguments = {name: value.requires_grad_() for name, value in made().items()}
    _, last_state = selective_scan(**arguments, backend=backend)
    last_state.sum().backward()
    assert arguments["A"].grad.abs().max() > 0
    assert arguments["C"].grad is None or arguments["C"].grad.abs().max() == 0  # outputs alone depend on C


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_gradient(backend, reentrant):
    def gradients(call):
        arguments = [value.requires_grad_() for value in made(2).values()]
        call(lambda *given: selective_scan(*given, backend=backend)[0], arguments).square().sum().backward()
        return [value.grad for value in arguments]

    plain = gradients(lambda scan, given: scan(*given))
    kept_little = gradients(lambda scan, given: checkpoint(scan, *given, use_reentrant=reentrant))
    for value, other in zip(kept_little, plain, strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_autocast_leaves_the_scan_in_float32(backend):
    halves = {name: value.bfloat16() for name, value in made(dtype=torch.float32).items()}
    halves["A"] = halves["A"].float()
    singles = {name: value.float() for name, value in halves.items()}
    expected, expected_state = selective_scan(**singles, backend=backend)
    halves["u"].requires_grad_()
    singles["u"].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out, last_state = selective_scan(**halves, backend=backend)
        out.float().sum().backward()
    selective_scan(**singles, backend=backend)[0].sum().backward()
    assert out.dtype == halves["u"].grad.dtype == torch.bfloat16
    assert last_state.dtype == torch.float32
    torch.testing.assert_close(out, expected.bfloat16())
    torch.testing.assert_close(last_state, expected_state)
    torch.testing.assert_close(halves["u"].grad, singles["u"].grad.bfloat16())


@pytest.mark.parametrize("backend", ON_CPU)
@given(seed=st.integers(0, 1000), length=st.integers(2, 30), data=st.data())
@settings(deadline=None, max_examples=20)
def test_later_tokens_change_no_earlier_output(backend, seed, length, data):
    changed = data.draw(st.integers(1, length - 1))
    first, second = made(seed, length=length), made(seed + 1, length=length)
    for name in ("u", "delta", "B", "C"):
        second[name][..., :changed] = first[name][..., :changed]
    second |= {name: first[name] for name in ("A", "D", "delta_bias")}
    outputs = [selective_scan(**given, delta_softplus=True, backend=backend)[0] for given in (first, second)]
    torch.testing.assert_close(outputs[0][..., :changed], outputs[1][..., :changed], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(outputs[0][..., changed:], outputs[1][..., changed:])


@pytest.mark.parametrize("backend", ON_CPU)
@given(seed=st.integers(0, 1000), length=st.integers(2, 30), data=st.data())
@settings(deadline=None, max_examples=20)
def test_a_split_sequence_joins_by_the_decay(backend, seed, length, data):
    split = data.draw(st.integers(1, length - 1))
    whole = made(seed, length=length) | {"delta_bias": None}
    whole["delta"] = whole["delta"].abs()
    halves = [
        whole | {name: whole[name][..., part] for name in ("u", "delta", "B", "C")}
        for part in (slice(split), slice(split, None))
    ]
    _, expected = selective_scan(**whole, backend=backend)
    (_, before), (_, after) = (selective_scan(**half, backend=backend) for half in halves)
    decay = torch.exp(halves[1]["delta"].sum(-1)[..., None] * whole["A"])
    torch.testing.assert_close(decay * before + after, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ON_CPU)
def test_steps_of_zero_keep_the_state(backend):
    arguments = made(length=11) | {"delta_bias": None, "D": None}
    arguments["delta"] = torch.zeros_like(arguments["delta"])
    arguments["delta"][..., 0] = 0.5
    out, last_state = selective_scan(**arguments, backend=backend)
    entered = 0.5 * arguments["u"][..., :1] * arguments["B"].repeat_interleave(3, 1)[..., 0]
    torch.testing.assert_close(last_state, entered)
    read = torch.einsum("bdn,bdnl->bdl", entered, arguments["C"].repeat_interleave(3, 1))
    torch.testing.assert_close(out, read)


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_very_negative_rate_forgets_all_but_the_present(backend):
    arguments = made(length=11) | {"delta_bias": None, "D": None}
    arguments["delta"] = arguments["delta"].abs() + 0.1
    arguments["A"] = torch.full_like(arguments["A"], -1e6)
    out, _ = selective_scan(**arguments, backend=backend)
    agreement = (arguments["B"] * arguments["C"]).sum(2).repeat_interleave(3, 1)
    torch.testing.assert_close(out, arguments["delta"] * arguments["u"] * agreement)


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_constant_input_settles_where_the_continuous_system_does(backend):
    ones = torch.ones(1, 1, 400, dtype=torch.float64)
    rate, step = 2.0, 0.1
    out, _ = selective_scan(
        ones, step * ones, -rate * torch.ones(1, 1, dtype=torch.float64), ones, ones, backend=backend
    )
    decay = math.exp(-rate * step)
    torch.testing.assert_close(out[0, 0, -1].item(), step / (1 - decay))
    torch.testing.assert_close(out[0, 0, 2].item(), step * (1 + decay + decay**2))


def test_one_group_may_go_without_its_axis():
    flat = made(groups=0)
    grouped = flat | {name: flat[name].unsqueeze(1) for name in ("B", "C")}
    for backend in ON_CPU:
        for found, expected in zip(
            selective_scan(**flat, backend=backend), selective_scan(**grouped, backend=backend), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_memory_layout_of_the_inputs_does_not_matter(backend):
    arguments = made()
    turned = {
        name: value.movedim(-1, 0).contiguous().movedim(0, -1) if value.ndim > 2 else value
        for name, value in arguments.items()
    }
    strided = arguments | {"u": torch.stack([arguments["u"]] * 2, -1)[..., 0]}
    expected = selective_scan(**arguments, backend=backend)
    for other in (turned, strided):
        for found, value in zip(selective_scan(**other, backend=backend), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_inputs_stay_as_they_are(backend):
    arguments = {name: value.requires_grad_() for name, value in made().items()}
    before = {name: value.detach().clone() for name, value in arguments.items()}
    selective_scan(**arguments, backend=backend)[0].sum().backward()
    for name, value in arguments.items():
        assert torch.equal(value.detach(), before[name]), name


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        several = result if isinstance(result, tuple | list) else (result,)
        sizes = [tensor.numel() for tensor in several if isinstance(tensor, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_the_size_of_all_states_is_made(training):
    batch, channels, length, states = 2, 32, 400, 16
    arguments = made(0, batch, channels, length, states, dtype=torch.float32)
    for value in arguments.values():
        value.requires_grad_(training)
    with LargestTensor() as largest:
        out, _ = selective_scan(**arguments, backend="in_place")
        if training:
            out.sum().backward()
    segment = math.isqrt(length) + 1
    assert largest.elements <= max(segment * batch * channels * states, 4 * batch * channels * length)
    assert largest.elements < batch * channels * length * states / 3


def test_auto_takes_the_loop_on_a_cpu():
    arguments = made(dtype=torch.float32)
    for found, expected in zip(
        selective_scan(**arguments), selective_scan(**arguments, backend="in_place"), strict=True
    ):
        assert torch.equal(found, expected)


def test_auto_takes_the_chunks_elsewhere():
    arguments = {name: value.to("meta") for name, value in made(dtype=torch.float32).items()}
    out, last_state = selective_scan(**arguments)
    assert out.shape == (2, 6, 13)
    assert last_state.shape == (2, 6, 3)


@pytest.fixture
def stand_in_kernel(monkeypatch):
    """mamba-ssm's function, computed by the loop; yields the arguments it was called with."""
    calls = []

    def selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
        calls.append({"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias})
        assert z is None
        assert return_last_state
        return selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, backend="in_place")

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[name].__spec__ = importlib.util.spec_from_loader(name, loader=None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    scan_kernel.kernel_function.cache_clear()
    yield calls
    scan_kernel.kernel_function.cache_clear()


def test_the_kernel_gets_one_dtype_and_float32_rates(stand_in_kernel):
    arguments = made(dtype=torch.float32)
    expected = selective_scan(**arguments, delta_softplus=True)
    found = scan_kernel.scan_by_kernel(*arguments.values(), True)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other)
    mixed = [value.half() for value in arguments.values()]
    mixed[1] = mixed[1].float()
    out, last_state = scan_kernel.scan_by_kernel(*mixed, True)
    assert out.dtype == torch.float16
    assert last_state.dtype == torch.float32
    assert {value.dtype for value in stand_in_kernel[-1].values()} == {torch.float32}


def test_an_installed_kernel_still_needs_cuda(stand_in_kernel):
    assert scan_kernel.kernel_function() is not None
    with pytest.raises(ValueError, match=r"on cpu, not on a CUDA device; take backend='auto' or 'chunked'"):
        selective_scan(**made(), backend="kernel")


def test_a_kernel_that_does_not_load_is_none(stand_in_kernel, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", None)
    assert scan_kernel.kernel_function() is None
    assert "does not load" in caplog.text


def turned(name):
    return lambda arguments: arguments | {name: arguments[name].mT}


WRONG = {
    "unknown back end": (lambda a: a | {"backend": "triton"}, "no scan back end 'triton'"),
    "no tokens": (
        lambda a: a | {name: a[name][..., :0] for name in ("u", "delta", "B", "C")},
        "sequence is empty",
    ),
    "no batch": (
        lambda a: a | {name: a[name][:0] for name in ("u", "delta", "B", "C")},
        "every side must be at least 1",
    ),
    "no states": (
        lambda a: a | {"A": a["A"][:, :0], "B": a["B"][:, :, :0], "C": a["C"][:, :, :0]},
        "every side must be at least 1",
    ),
    "u without batch": (lambda a: a | {"u": a["u"][0]}, r"u has shape \(6, 13\), expected \(batch, D, L\)"),
    "delta turned": (turned("delta"), r"delta has shape \(2, 13, 6\), expected \(2, 6, 13\)"),
    "A turned": (turned("A"), r"A has shape \(3, 6\), expected \(6, N\)"),
    "B turned": (turned("B"), r"B has shape \(2, 2, 13, 3\), expected \(2, groups, 3, 13\)"),
    "C without batch": (lambda a: a | {"C": a["C"][0, 0]}, r"C has shape \(3, 13\)"),
    "C of another length": (lambda a: a | {"C": a["C"][..., 1:]}, r"C has shape \(2, 2, 3, 12\)"),
    "groups that do not divide": (
        lambda a: a | {name: a[name].repeat(1, 2, 1, 1) for name in ("B", "C")},
        "B has 4 groups, which do not divide u's 6 channels",
    ),
    "groups that differ": (lambda a: a | {"B": a["B"][:, [0, 1, 1]]}, "B has 3 groups and C has 2"),
    "D of another width": (lambda a: a | {"D": a["D"][1:]}, r"D has shape \(5,\), expected \(6,\)"),
    "a bias of another width": (
        lambda a: a | {"delta_bias": a["delta_bias"][:, None]},
        r"delta_bias has shape \(6, 1\)",
    ),
    "whole numbers": (lambda a: a | {"delta": a["delta"].long()}, "delta is torch.int64, expected floating"),
    "two devices": (lambda a: a | {"B": a["B"].to("meta")}, "B is on meta and u on cpu"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_says_what_is_wrong(wrong):
    change, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        selective_scan(**change(made()))


def test_a_missing_kernel_is_named(monkeypatch):
    monkeypatch.setattr(scan_kernel, "kernel_function", lambda: None)
    on_cuda = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert "not installed" in scan_kernel.kernel_obstacle(on_cuda, torch.zeros(1, 16))
    assert "at most 256" in scan_kernel.kernel_obstacle(on_cuda, torch.zeros(1, 300))
    on_cuda.dtype = torch.float64
    assert "float64" in scan_kernel.kernel_obstacle(on_cuda, torch.zeros(1, 16))
