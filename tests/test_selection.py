"Selection over ranks: two processes choose as one does; what was kept is counted and recorded whatever happens to the run"
import math, shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sa_toolkit import kept_record
from sa_toolkit.core import example_chain, example_chains
from sa_toolkit.kept import KeptShares, annotate, groups, kept_by
from sa_toolkit.kept_record import KeptRecorder, open_kept
from sa_toolkit.selection import CHOICES, Selected, choose, select

def excess(n, seed=0): return torch.randn(n, generator=torch.Generator().manual_seed(seed))

CASES = {'uneven':(excess(12), (3,9)), 'first empty':(excess(7), (0,7)), 'last empty':(excess(7), (7,0)), 'all empty':(excess(0), (0,0)),
    'ties':(torch.tensor([1., 1, 0, 1, 1, 1, 0, 1]), (3,5)), 'all equal':(torch.zeros(11), (6,5)), 'hard part':(torch.arange(10.), (5,5)),
    'bf16':(excess(300).bfloat16(), (100,200)), 'float64':(1 + 1e-12*excess(64).double(), (40,24)), 'infinite':(torch.tensor([0., float('inf'), -float('inf'), 1]), (2,2))}

CHAINS = example_chains()[:12]

def choice(step, chains=range(12)):
    rows, places = torch.cat([torch.full((len(CHAINS[k]),), k) for k in chains]), torch.cat([torch.arange(len(CHAINS[k])) for k in chains])
    return Selected(rows, places, (x := excess(len(rows), step)), select(x, .8))

def run_of(step, chains=range(12), out=None):
    return SimpleNamespace(step=step, history=[dict(step=step, seconds=1.)], examples=CHAINS, out=out, model=torch.nn.Linear(1, 1), selected=dict(physical=choice(step, chains), a2g=choice(step+100, chains)))

def watch(rank, folder):
    "A run of seven steps on two ranks, five chains on one and seven on the other"
    shares, recorder = KeptShares(cost=math.inf), KeptRecorder(join=3)
    part = (range(5), range(5, 12))[rank]
    recorder.before_fit(run_of(0, out=folder))
    for step in range(1, 8):
        learn = run_of(step, part, folder)
        if step==6 and rank: learn.selected.pop('a2g') # a rank whose chains have no residue for one of the losses
        for c in (shares, recorder): c.after_step(learn)
    torch.save(learn.history[-1], folder/f'log{rank}.pt')

def rank_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    said = {}
    for name,(x, sizes) in CASES.items():
        for how in CHOICES:
            for ratio in (.01, .5, .8, 1.):
                said[rank, name, how, ratio] = choose(x.split(sizes)[rank], ratio, how, torch.Generator().manual_seed(1), over_ranks=True).tolist()
    apart = choose(excess(100).split((30,70))[rank], .5, 'random', torch.Generator().manual_seed(rank), over_ranks=True)
    said[rank, 'generators apart'] = apart.tolist()
    try: select(torch.tensor([1., float('nan')]) if rank else torch.tensor([1., 2.]), over_ranks=True)
    except FloatingPointError as e: said[rank, 'nan'] = str(e)
    torch.save(said, folder/f'{rank}.pt')
    watch(rank, folder)
    dist.destroy_process_group()

@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    mp.spawn(rank_of_two, (folder,), nprocs=2)
    return folder

@pytest.fixture(scope='module')
def two(ranks): return torch.load(ranks/'0.pt') | torch.load(ranks/'1.pt')

@pytest.mark.parametrize('case', CASES)
def test_two_processes_choose_as_one(two, case):
    x, sizes = CASES[case]
    for how in CHOICES:
        for ratio in (.01, .5, .8, 1.):
            one = choose(x, ratio, how, torch.Generator().manual_seed(1))
            assert [two[rank, case, how, ratio] for rank in (0,1)] == [k.tolist() for k in one.split(sizes)], (how, ratio)
            if ratio==1 or how=='all': assert one.all()
            else: assert one.sum() == (max(1, int(ratio*len(x))) if len(x) else 0)

def test_threshold_is_not_per_rank(two):
    assert two[0, 'hard part', 'excess', .5]==[False]*5 and two[1, 'hard part', 'excess', .5]==[True]*5

def test_random_share_is_exact_whatever_the_generators(two):
    assert sum(two[0, 'generators apart'] + two[1, 'generators apart']) == 50

def test_nan_on_one_rank_stops_both(two):
    assert two[0, 'nan'] == two[1, 'nan'] and two[0, 'nan'].startswith('1 of 4 excess losses are not a number')

def test_ties_and_nan_alone():
    x = torch.zeros(1000)
    assert select(x, .3).nonzero().flatten().tolist() == list(range(300)) # the earliest of the equal ones, every time
    with pytest.raises(FloatingPointError): choose(torch.tensor([float('nan'), 1.]), .5, 'lowest')
    assert choose(torch.tensor([float('nan'), 1.]), .5, 'all').all() # values are not looked at; the loss itself tells

def test_selection_needs_no_gradient():
    x = torch.randn(8, requires_grad=True)
    assert not select(x, .5).requires_grad

# what was kept: statistics and record

def test_counts_of_two_ranks_add_up(ranks):
    one, other = (torch.load(ranks/f'log{r}.pt') for r in (0, 1))
    assert str(one) == str(other) and one['kept_chains'] == 12
    parts = [kept_by(choice(k, part), CHAINS) for k,part in ((7, range(5)), (7, range(5, 12)))]
    for group in (r['group'] for r in (parts[0]+parts[1]).rows if r['group'] != 'unknown'):
        assert one[f'kept_physical_{group}'] == {r['group']:r['share'] for r in (parts[0]+parts[1]).rows}[group]

def test_record_of_two_ranks_reads_as_one(ranks):
    record = open_kept(ranks)
    assert record.steps == list(range(1, 8))
    assert len(record[6]['a2g']) == len(choice(6, range(5))) < len(record[7]['a2g'])
    for step in record.steps:
        parts = [choice(step, part) for part in (range(5), range(5, 12))]
        assert torch.equal(record[step]['physical'].keep_N, torch.cat([p.keep_N for p in parts])) and torch.equal(record[step]['physical'].rows_N, choice(1).rows_N)

def test_fewer_ranks_go_on_without_doubled_steps(ranks, tmp_path):
    shutil.copytree(ranks/'kept', tmp_path/'kept')
    KeptRecorder().before_fit(run_of(4, out=tmp_path)) # one process takes over from two
    assert open_kept(tmp_path).steps == [1, 2, 3, 4] and len(open_kept(tmp_path)[4]['a2g']) == sum(map(len, CHAINS))

def test_join_that_was_cut_short(tmp_path, monkeypatch):
    recorder = KeptRecorder(join=3)
    recorder.before_fit(run_of(0, out=tmp_path))
    for k in (1, 2): recorder.after_step(run_of(k, out=tmp_path))
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt): # killed after the joined file was written, before the single ones are gone
        m.setattr(Path, 'unlink', lambda self, missing_ok=False: None if missing_ok else (_ for _ in ()).throw(KeyboardInterrupt))
        recorder.after_step(run_of(3, out=tmp_path))
    assert len(list((tmp_path/'kept').iterdir())) == 4 and open_kept(tmp_path).steps == [1, 2, 3]
    assert torch.equal(open_kept(tmp_path)[2]['a2g'].keep_N, choice(102).keep_N)
    KeptRecorder().before_fit(run_of(3, out=tmp_path))
    assert [p.name for p in (tmp_path/'kept').iterdir()] == ['00000001-00000003.0.parquet']

def test_full_disk_stops_the_record_not_the_run(tmp_path, monkeypatch):
    recorder = KeptRecorder()
    recorder.before_fit(run_of(0, out=tmp_path))
    recorder.after_step(run_of(1, out=tmp_path))
    def full(path, write): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr(kept_record, 'atomic_write', full)
        with pytest.warns(UserWarning, match='step 2 kept could not be written.*No space left.*goes on'): recorder.after_step(run_of(2, out=tmp_path))
    recorder.after_step(run_of(3, out=tmp_path))
    assert open_kept(tmp_path).steps == [1]

def test_damaged_file_is_named(tmp_path):
    recorder = KeptRecorder(join=2)
    recorder.before_fit(run_of(0, out=tmp_path))
    for k in range(1, 6): recorder.after_step(run_of(k, out=tmp_path))
    path = tmp_path/'kept'/'00000003-00000004.0.parquet'
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match='00000003-00000004.0.parquet is damaged'): open_kept(tmp_path).steps # noqa: B018
    with pytest.raises(ValueError, match='00000003-00000004.0.parquet is damaged'): KeptRecorder().before_fit(run_of(3, out=tmp_path))

def test_annotation_of_every_example_chain():
    for c in example_chains()[::20]:
        facts = annotate(c)
        seen = c.resolved
        assert all(len(v)==len(c) for v in facts.values()) and np.isnan(facts['burial'][~seen]).all() and (facts['ss'][~seen]=='').all()
        near = np.linalg.norm(c.cb[:,None].astype(float) - c.cb[None], axis=-1) < 10
        assert np.array_equal(facts['burial'][seen], near[seen].sum(1)-1)
        assert set(facts['ss']) <= {'H','E','C',''} and (groups(facts) < 320).all()

def test_secondary_structure_against_the_bundled_dssp():
    "States that came with the chains from another DSSP, in three"
    three = {s:t for t,ss in dict(H='GHI', E='EB', C='CSTP').items() for s in ss}
    same = total = 0
    for c in CHAINS:
        ours, theirs = annotate(c)['ss'], [three[s] for s in c.annotations['dssp']]
        same, total = same + sum(a==b for a,b in zip(ours, theirs) if a), total + sum(ours != '')
    assert same/total > .97, same/total

def test_the_learner_s_own_choices(tmp_path):
    "Real training: what the callbacks say is what the step chose, in places of the full chain"
    from sa_toolkit.data import encode_chains
    from sa_toolkit.pgnn import load_pgnn
    from sa_toolkit.plm import load_plm
    from sa_toolkit.tokens import load_tokenizer
    from sa_toolkit.train import Aligner, AlignConfig, Learner
    chains = [example_chain('1UBI'), example_chain('2XHE'), *CHAINS[:4]]
    examples, seen = encode_chains(chains, load_pgnn(), load_tokenizer()), {}
    class Note:
        def after_step(self, learn): seen[learn.step] = learn.selected
    cfg = AlignConfig(steps=4, budget=900, max_length=100, selection='lowest') # windows of 100 residues
    learn = Learner(Aligner(load_plm('tiny', pretrained=False), 128), examples, cfg, callbacks=[Note(), KeptShares(cost=math.inf), KeptRecorder()], out=tmp_path).fit()
    record = open_kept(tmp_path)
    assert record.steps == [1, 2, 3, 4]
    for step,chosen in seen.items():
        for loss,s in chosen.items():
            assert all(torch.equal(getattr(s, k), getattr(record[step][loss], k)) for k in ('rows_N', 'places_N', 'keep_N'))
            table, log = kept_by(s, examples), learn.history[step-1]
            assert log[f'kept_{loss}'] == table.share and log['kept_chains'] == len({r for c in chosen.values() for r in c.rows_N.tolist()})
    cut = [s for chosen in seen.values() for s in chosen.values() if (s.rows_N==1).any()]
    assert cut and all(chains[1].resolved[s.places_N[s.rows_N==1]].all() for s in cut) and any(s.places_N[s.rows_N==1].max() > 100 for s in cut)
