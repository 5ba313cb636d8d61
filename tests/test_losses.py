"The contrastive loss: two processes do what one does, whatever each holds; memory; wrong and hostile input"
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sa_toolkit import losses
from sa_toolkit.losses import infonce

def naive(a, g, scale, mask=None):
    keep, zeros = (torch.ones(len(a), dtype=torch.bool) if mask is None else mask), torch.zeros(len(a), dtype=a.dtype)
    s, i = scale*a[keep]@g[keep].T, torch.arange(int(keep.sum()))
    return [zeros.masked_scatter(keep, F.cross_entropy(x, i, reduction='none')) for x in (s, s.T)]

def states(n, dtype, size=1.):
    gen = torch.Generator().manual_seed(n)
    return [F.normalize(torch.randn(n, 24, generator=gen, dtype=torch.double), dim=1).mul(size).to(dtype) for _ in range(2)]

def weights(n, dtype): return torch.rand(2, n, generator=torch.Generator().manual_seed(n), dtype=torch.double).to(dtype)

def results(fn, a, g, scale, w, **kw):
    "Losses and gradients of states and scale"
    a, g, t = (x.detach().clone().requires_grad_() for x in (a, g, torch.tensor([scale], dtype=torch.promote_types(a.dtype, torch.float32))))
    x, y = fn(a, g, t, **kw)
    ((x*w[0]).sum() + (y*w[1]).sum()).backward()
    return [x.detach(), y.detach(), a.grad, g.grad, t.grad]

def close(got, ref, tol):
    for p, q in zip(got, ref): assert (p-q).abs().max() <= tol*q.abs().max().clamp(min=1), ((p-q).abs().max(), q.abs().max())

# counts of the two ranks, size of the states (1: normalised), scale, share that is masked out
CASES = dict(uneven=((11, 30), 1, 14, 0), masked=((25, 18), 1, 14, .4), first_empty=((0, 21), 1, 14, 0), last_empty=((21, 0), 1, 14, 0), one=((1, 0), 1, 14, 0),
    all_empty=((0, 0), 1, 14, 0), clip=((17, 9), 1, 100, .2), running_maxima=((13, 20), 9, 14, .3), one_rank_masked=((5, 16), 1, 14, 'first'))

def joined(case, dtype):
    "What one process holds"
    counts, size, scale, share = CASES[case]
    n, (a, g) = sum(counts), states(sum(counts), dtype, size)
    mask = torch.rand(n, generator=torch.Generator().manual_seed(7))>=(share if share!='first' else 0)
    if share=='first': mask[:counts[0]] = False
    a[~mask] = torch.nan
    return counts, a, g, float(scale), weights(n, dtype), mask

def one_rank(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2, timeout=timedelta(seconds=60))
    losses._TILES['cpu'] = 5, 7
    for losses._KEEP, dtype, tol in ((0, torch.double, 1e-10), (2**24, torch.float32, 1e-6)): # tiles computed again, tiles kept
        for case in CASES:
            counts, a, g, scale, w, mask = joined(case, dtype)
            mine = slice(sum(counts[:rank]), sum(counts[:rank+1]))
            ref = results(infonce, a, g, scale, w, mask=mask)
            got = results(infonce, a[mine], g[mine], scale, w[:,mine], mask=mask[mine], over_ranks=True)
            dist.all_reduce(got[4])
            for p, q in zip(got, (*(x[mine] for x in ref[:4]), ref[4])):
                worst = (p-q).abs().max().item() if p.numel() else 0
                assert p.shape==q.shape and worst <= tol*max(1, q.abs().max().item() if q.numel() else 0), f'{case}, {dtype}, {worst}'
    half = [x.bfloat16() for x in states(31, torch.double)]
    x, _ = infonce(*(x[rank::2] for x in half), 14., over_ranks=True)
    close([x], [infonce(*(torch.cat([x[::2], x[1::2]]) for x in half), 14.)[0][16*rank:16*rank+len(x)]], 1e-6)
    a, g = states(9+rank, torch.float32)
    if rank==1: g[2] = torch.nan
    assert not infonce(a, g, 14., over_ranks=True)[0].isfinite().any() # one rank's NaN is seen by all, and none waits for another
    dist.destroy_process_group()

def test_two_ranks_equal_one(tmp_path): mp.spawn(one_rank, (tmp_path/'store',), nprocs=2)

@pytest.mark.parametrize('case', CASES)
def test_one_process_equals_naive(case, monkeypatch):
    monkeypatch.setitem(losses._TILES, 'cpu', (5, 7))
    _, a, g, scale, w, mask = joined(case, torch.double)
    got = results(infonce, a, g, scale, w, mask=mask, over_ranks=True)
    if mask.any(): close(got, results(naive, a, g, scale, w, mask=mask), 1e-12)
    else: assert not got[0].any() and not got[2].any()

class Largest(TorchDispatchMode):
    "The largest tensor seen below torch's operations"
    elements = 0
    def __torch_dispatch__(self, fn, types, args=(), kwargs=None):
        out = fn(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out

@pytest.mark.parametrize('size', [1, 9]) # one exponential, running maxima
def test_no_matrix_is_ever_held(size, monkeypatch):
    monkeypatch.setitem(losses._TILES, 'cpu', (64, 128))
    monkeypatch.setattr(losses, '_KEEP', 0)
    n, (a, g) = 1200, states(1200, torch.float32, size)
    with Largest() as seen: results(infonce, a, g, 14., weights(n, torch.float32))
    assert n < seen.elements <= 24*n < n**2/20

@pytest.mark.parametrize('scale', [1e-3, 14, 57, 75, 100, 1000])
@pytest.mark.parametrize('kind', ['random', 'same', 'opposite', 'all alike', 'huge', 'tiny'])
def test_float32_is_as_good_as_naive(scale, kind):
    a, g = states(200, torch.float32)
    a, g = dict(random=(a, g), same=(a, a), opposite=(a, -a), huge=(1e3*a, g), tiny=(1e-20*a, g)).get(kind) or (a[:1].repeat(200, 1), a[:1].repeat(200, 1))
    w = weights(200, torch.float32)
    ref = results(naive, a.double(), g.double(), float(scale), w.double())
    worst = lambda got: max(((p-q).abs().max()/q.abs().max().clamp(min=floor)).item() for p, q, floor in zip(got, ref, (1, 1, 1, 1, 200)))
    got, rounding = results(infonce, a, g, float(scale), w), 2**-24*scale*(a@g.T).abs().max() # of the similarities themselves
    assert worst(got) < max(3e-6, rounding, 5*worst(results(naive, a, g, float(scale), w)))
    assert got[0].min() >= 0 and got[1].min() >= 0

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_what_is_not_finite_is_not_hidden(bad):
    a, g = states(20, torch.float32)
    a[3,2] = bad
    assert not infonce(a, g, 14.)[0][3].isfinite()
    assert not infonce(a, g, bad)[0].isfinite().any()

def test_small_incoming_gradients_keep_their_digits():
    a, g = states(300, torch.float32)
    a = F.normalize(a+3*g, dim=1)
    w, small = weights(300, torch.float32), 2.**-40
    full, scaled = (results(infonce, a, g, 57., w*k)[2:] for k in (1, small))
    close([x/small for x in scaled], full, 1e-6)

def test_kinds_of_input():
    a, g = states(40, torch.float32)
    ref = infonce(a, g, torch.tensor([14.]))
    assert all(torch.equal(x, y) for s in (14, 14., torch.tensor(14.), torch.tensor([14.], dtype=torch.double)) for x, y in zip(infonce(a, g, s), ref))
    half = infonce(a.half(), g.bfloat16(), 14.)[0]
    assert half.dtype==torch.float32 and (half-ref[0]).abs().max() < .2
    got = results(infonce, a.bfloat16(), g.bfloat16(), 14., weights(40, torch.float32))
    assert got[2].dtype==torch.bfloat16 and infonce(a.T.contiguous().T, g, 14.)[0].allclose(ref[0])
    assert [len(x) for x in infonce(a[:0], g[:0], 14.)]==[0, 0] and not any(infonce(a[:1], g[:1], 14.))

def test_gradient_only_where_asked():
    a, g = states(30, torch.float32)
    x, y = infonce(a.requires_grad_(), g, 14.)
    x.sum().backward(retain_graph=True)
    first = a.grad.clone()
    x.sum().backward()
    assert torch.equal(a.grad, 2*first) and g.grad is None and first.any()
    with torch.no_grad(): assert not infonce(a, g, 14.)[0].requires_grad

def test_second_derivatives_are_refused():
    a, g = (x.requires_grad_() for x in states(6, torch.double))
    with pytest.raises(RuntimeError, match='no second derivatives'): torch.autograd.grad(infonce(a, g, 3.)[0].sum(), a, create_graph=True)

def test_clamp():
    a, g = states(30, torch.double)
    w = weights(30, torch.double)
    high, at = (results(infonce, a, g, s, w, max_scale=100) for s in (130., 100.))
    assert torch.equal(high[0], at[0]) and torch.equal(high[2], at[2]) and high[4]==0 and at[4]!=0

def test_wrong_input_is_named():
    a, g = states(8, torch.float32)
    with pytest.raises(ValueError, match='one shape'): infonce(a, g[:3], 1.)
    for mask in (torch.ones(7, dtype=torch.bool), torch.ones(8)):
        with pytest.raises(ValueError, match='8 booleans'): infonce(a, g, 1., mask)
