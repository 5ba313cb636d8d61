"Building datasets: killed at any moment, disks that fill, ranks, Ray, and what a check finds"
import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sa_toolkit.build as build
import sa_toolkit.prepare as prep
from sa_toolkit.build import run_ray
from sa_toolkit.check import check
from sa_toolkit.core import asset, example_chains, save_chains
from sa_toolkit.plan import Recipe
from sa_toolkit.prepare import prepare
from sa_toolkit.shards import open_dataset
from sa_toolkit.structure import read_chains

DATA = Path(__file__).parent/'data'/'structures'
SA = Path(sys.executable).with_name('sa-toolkit')
BARE, SINGLE = (Recipe(pgnn='', per_shard=n) for n in (2, 1))
ENV = os.environ | dict(OMP_NUM_THREADS='1')

def tree(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob('*')) if f.is_file()}

def command(source, out, *more): return [str(SA), 'prepare', str(source), str(out), '--pgnn', '', '--per-shard', '2', '--workers', '2', *more]

@pytest.fixture(scope='module')
def pile(tmp_path_factory):
    "Real entries in all formats, several times over under other names, and files that cannot be read"
    folder = tmp_path_factory.mktemp('pile')/'in'
    for copy in 'abcd':
        (folder/copy).mkdir(parents=True)
        for f in sorted([*DATA.iterdir(), *asset('structures').iterdir()]):
            if '.cif' in f.name or '.pdb' in f.name or '.bcif' in f.name: shutil.copy(f, folder/copy/f.name)
    (folder/'broken.cif').write_text('data_BAD\nloop_\n_atom_site.id\n')
    (folder/'empty.pdb').write_text('')
    return folder

@pytest.fixture(scope='module')
def whole(pile, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'ds'
    prepare(pile, out, SINGLE, workers=1, progress=False)
    return out

def test_nothing_is_lost_and_everything_is_said(pile, whole):
    ds = open_dataset(whole)
    direct = {}
    for f in sorted(p for p in pile.rglob('*') if p.is_file()):
        try: direct[f.relative_to(pile).as_posix()] = read_chains(f)
        except ValueError: pass
    stored = {(c.source, c.id): c for c in (ds.chain(i) for i in range(len(ds)))}
    report = list(csv.DictReader(open(whole/'report.csv')))
    said = {(r['input'], r['chain']) for r in report}
    for name, chains in direct.items():
        for c in chains:
            assert ((name, c.id) in stored) != ((name, c.id) in said), (name, c.id)
            if (name, c.id) in stored: assert np.array_equal(stored[name, c.id].coords, c.coords, equal_nan=True) and stored[name, c.id].audit.counts == c.audit.counts
    lines = {r['input']: r for r in report if not r['chain']}
    assert {'broken.cif', 'empty.pdb'} <= lines.keys() and all(r['what'] == 'refused' and r['why'].endswith('.') for r in lines.values())
    assert check(whole, progress=False) == []

def test_a_split_keeps_clusters_together(whole):
    t = open_dataset(whole).table.to_pandas()
    assert set(t.split) <= {'train', 'valid', 'test'} and (t.groupby('cluster').split.nunique() == 1).all()
    assert (t.groupby('sequence').cluster.nunique() == 1).all()

def test_killed_twenty_times_the_bytes_are_the_same(pile, whole, tmp_path, capsys):
    "kill −9 of the parent at random moments; its workers end by themselves, finished shards are never built again"
    out, seen, log = tmp_path/'ds', {}, []
    seed = int(os.environ.get('SA_SEED') or random.randrange(10**6))
    rng = random.Random(seed)
    for k in range(20):
        p = subprocess.Popen(command(pile, out, '--per-shard', '1'), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        there, deadline = lambda: len(list(out.glob('shards/[0-9]*.parquet'))) - len(seen), time.time() + rng.uniform(0, 4)
        # one of four at any moment from the start on; the others once work goes on, however slow or fast the machine
        while p.poll() is None and there() < 1 and (k % 4 or time.time() < deadline): time.sleep(.002)
        if k % 4: time.sleep(rng.uniform(0, .05))
        ended = p.poll() is not None
        p.kill()
        p.wait()
        end = time.time() + 20
        while time.time() < end: # the workers notice
            try: os.killpg(p.pid, 0)
            except ProcessLookupError: break
            time.sleep(.02)
        else: raise AssertionError('workers outlive their parent')
        for f in out.glob('shards/[0-9]*.parquet'): seen.setdefault(f.name, (f.stat().st_ino, f.stat().st_mtime_ns))
        log.append(f'{"ended" if ended else "killed"} at {len(seen)}')
    subprocess.run(command(pile, out, '--per-shard', '1'), env=ENV, check=True, capture_output=True)
    with capsys.disabled(): print(f'\nkills (seed {seed}), shards there after each: {", ".join(log)}')
    assert sum(line.startswith('killed') for line in log) >= 10 and seen, log
    assert {f: (s.st_ino, s.st_mtime_ns) for f in seen if (s := (out/'shards'/f).stat())} == seen
    assert tree(out) == tree(whole)

def test_ranks_together_make_the_same_bytes(pile, whole, tmp_path):
    out = tmp_path/'ds'
    assert prepare(pile, out, SINGLE, workers=1, rank=0, world=2, progress=False) is None
    assert not (out/'manifest.parquet').exists() and len(list(out.glob('shards/[0-9]*.parquet'))) == -(-len(list(whole.glob('shards/[0-9]*.parquet')))//2)
    r = subprocess.run(command(pile, out, '--per-shard', '1'), env=ENV | dict(RANK='1', WORLD_SIZE='2'), capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert tree(out) == tree(whole)

def test_ray_runs_the_same_functions(pile, whole, tmp_path, monkeypatch):
    monkeypatch.setenv('RAY_raylet_start_wait_time_s', '120') # a busy machine
    monkeypatch.setenv('RAY_DATA_DISABLE_PROGRESS_BARS', '1')
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try: prepare(pile, tmp_path/'ds', SINGLE, workers=2, engine=run_ray, progress=False)
    finally: ray.shutdown()
    assert tree(tmp_path/'ds') == tree(whole)

def test_interrupt_keeps_what_is_done(pile, tmp_path):
    out = tmp_path/'ds'
    p = subprocess.Popen(command(pile, out, '--per-shard', '1'), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while p.poll() is None and not list(out.glob('shards/[0-9]*.parquet')): time.sleep(.05)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and 'Stopped. Finished shards are kept' in err and 'Traceback' not in err
    ds = open_dataset(out)
    assert not ds.facts['complete'] and len(ds) and np.isfinite(ds.chain(0).coords).any()
    r = subprocess.run([str(SA), 'check', str(out)], capture_output=True, text=True)
    assert r.returncode == 1 and 'is not there: run the same' in r.stderr and 'not what was written' not in r.stderr

def test_a_full_disk_leaves_a_sound_dataset(tmp_path):
    "The kernel refuses to write beyond a size; a larger shard meets that, smaller ones do not"
    big, small = (sorted(example_chains(), key=len, reverse=r)[:2] for r in (True, False))
    save_chains([*small, *big], tmp_path/'pack.npz')
    limit = 100*sum(map(len, big))
    args = [*command(tmp_path/'pack.npz', tmp_path/'ds'), '--workers', '1']
    r = subprocess.run(args, env=ENV, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit//2, limit//2)))
    assert r.returncode == 1 and 'Traceback' not in r.stderr, r.stderr
    last = r.stderr.strip().splitlines()[-1]
    assert 'disk full' in last and '1 of 2 shards are whole and kept (2 chains can be read)' in last and last.endswith('run the same command again.')
    assert open_dataset(tmp_path/'ds').ids == [c.id for c in small] and not [f for f in (tmp_path/'ds').rglob('*') if '.part' in f.name]
    assert subprocess.run(args, env=ENV, capture_output=True).returncode == 0
    assert open_dataset(tmp_path/'ds').facts['complete'] and check(tmp_path/'ds', progress=False) == []

def test_no_space_at_all(monkeypatch, tmp_path):
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(build, 'write_shard', lambda *a, **k: full())
    monkeypatch.setattr(prep, 'write_manifest', lambda *a, **k: full())
    with pytest.raises(OSError, match=r'disk full .*0 of \d+ shards are whole and kept: free some space'): prepare(asset('structures'), tmp_path/'ds', BARE, workers=1, progress=False)

def test_a_dead_worker_is_a_sentence(tmp_path):
    save_chains(example_chains()[:40], tmp_path/'pack.npz')
    import multiprocessing as mp
    def engine(jobs, workers): # the real pool, one of whose processes is killed once a shard is there
        for k, outcome in enumerate(build.run_pool(jobs, 2)):
            yield outcome
            if not k: [c.kill() for c in mp.active_children()]
    with pytest.raises(RuntimeError, match=r'a worker ended without a word; \d+ of 40 shards are whole and kept .*fewer --workers'):
        prepare(tmp_path/'pack.npz', tmp_path/'ds', Recipe(pgnn='', per_shard=1), engine=engine, progress=False)
    assert len(open_dataset(tmp_path/'ds')) and not open_dataset(tmp_path/'ds').facts['complete']

def test_what_is_out_of_reach_makes_its_shard_wait(monkeypatch, tmp_path):
    monkeypatch.setenv('SA_TOOLKIT_OFFLINE', '1')
    monkeypatch.setenv('SA_TOOLKIT_CACHE', str(tmp_path/'cache'))
    ids = tmp_path/'ids.txt'
    ids.write_text('1GBT\n9XYZ\n')
    (tmp_path/'cache/structures').mkdir(parents=True)
    shutil.copy(DATA/'1gbt.bcif.gz', tmp_path/'cache/structures')
    with pytest.raises(ConnectionError, match='1 of 2 shards wait for inputs that are out of reach now .first: 9XYZ'):
        prepare(ids, tmp_path/'ds', Recipe(pgnn='', per_shard=1), workers=1, progress=False)
    ds = open_dataset(tmp_path/'ds')
    assert [i.split('_')[0] for i in ds.ids] == ['1GBT'] and not ds.facts['complete'] and ds.facts['missing'] == ['00001']

def test_killed_while_the_plan_or_the_manifest_was_written(tmp_path):
    save_chains(example_chains('test')[:4], tmp_path/'pack.npz')
    out = tmp_path/'ds'
    out.mkdir()
    (out/'.plan.json.0123.part.json').write_text('{"recipe"')
    prepare(tmp_path/'pack.npz', out, BARE, workers=1, progress=False)
    before = tree(out)
    (out/'manifest.parquet').rename(out/'.manifest.parquet.0123.part.parquet')
    (out/'shards/00001.parquet').write_bytes(before['shards/00001.parquet'][:-100]) # and the machine lost power
    prepare(tmp_path/'pack.npz', out, BARE, workers=1, progress=False)
    assert tree(out) == before

def test_ranks_that_end_together(pile, whole, tmp_path):
    shutil.copytree(whole, tmp_path/'ds')
    (tmp_path/'ds/manifest.parquet').unlink()
    runs = [subprocess.Popen(command(pile, tmp_path/'ds', '--per-shard', '1', '--rank', str(k), '--world', '3'), env=ENV, stderr=subprocess.PIPE, text=True) for k in range(3)]
    assert [(r.communicate()[1], r.returncode)[1] for r in runs] == [0, 0, 0] and tree(tmp_path/'ds') == tree(whole)

@pytest.mark.parametrize('ranks', [('--rank', '1'), ('--world', '3'), ('--rank', '7', '--world', '2'), ('--rank', '-1', '--world', '2')])
def test_ranks_that_cannot_be(tmp_path, ranks):
    r = subprocess.run(command(asset('structures'), tmp_path/'ds', *ranks), env=ENV, capture_output=True, text=True)
    assert r.returncode == 1 and 'rank' in r.stderr and not (tmp_path/'ds').exists()

def test_names_that_are_nothing_cost_a_line(tmp_path):
    ids = tmp_path/'ids.txt'
    ids.write_text(f'4HHBX\nnosuch.cif\n{asset("structures/1ubi.pdb.gz")}\n')
    ds = prepare(ids, tmp_path/'ds', BARE, workers=1, progress=False)
    assert ds.ids == ['1UBI_A'] and ds.facts['complete']
    assert [(r['input'], r['what']) for r in csv.DictReader(open(tmp_path/'ds/report.csv'))] == [('4HHBX', 'refused'), ('nosuch.cif', 'refused')]
    with pytest.raises(ValueError, match='holds no structure|is no file'): prepare('nosuch', tmp_path/'other', BARE, progress=False)
    assert not (tmp_path/'other').exists()

def test_a_file_that_was_replaced_is_seen(tmp_path):
    (tmp_path/'in').mkdir()
    shutil.copy(asset('structures/1ubi.pdb.gz'), tmp_path/'in/x.pdb.gz')
    prepare(tmp_path/'in', tmp_path/'ds', BARE, workers=1, progress=False)
    shutil.copy(DATA/'1A8O.pdb.gz', tmp_path/'in/x.pdb.gz')
    with pytest.raises(ValueError, match=r'begun with other inputs \(1 differ, first x.pdb.gz\)'): prepare(tmp_path/'in', tmp_path/'ds', BARE, workers=1, progress=False)

def test_the_split_can_be_changed_later(tmp_path):
    save_chains(example_chains('test')[:20], tmp_path/'pack.npz')
    a = prepare(tmp_path/'pack.npz', tmp_path/'ds', Recipe(tokens='', pgnn=''), workers=1, progress=False)
    stamp = (tmp_path/'ds/shards/00000.safetensors').stat().st_mtime_ns
    b = prepare(tmp_path/'pack.npz', tmp_path/'ds', Recipe(tokens='', pgnn='', fractions=(.5, .25, .25)), workers=1, progress=False)
    assert (tmp_path/'ds/shards/00000.safetensors').stat().st_mtime_ns == stamp
    assert a.column('split').tolist().count('train') > b.column('split').tolist().count('train') and check(tmp_path/'ds', progress=False) == []

def test_a_chain_that_cannot_be_encoded_costs_a_line(monkeypatch, tmp_path):
    from types import SimpleNamespace

    from sa_toolkit.tokens import load_tokenizer
    chains, tok = example_chains('test')[:3], load_tokenizer()
    def encode(c):
        if c.id == chains[1].id: raise IndexError('boom')
        return tok.encode(c)
    monkeypatch.setattr(build, 'load_encoders', lambda *_: (SimpleNamespace(encode=encode), None))
    kept, tokens, states, lines = build.encode_inputs(chains, Recipe(pgnn=''))
    assert [c.id for c in kept] == [chains[0].id, chains[2].id] and len(tokens) == 2 and states is None
    assert [(r['chain'], r['why']) for r in lines] == [(chains[1].id, 'cannot be encoded (IndexError: boom)')]

def test_more_shards_than_open_files(tmp_path):
    save_chains(example_chains()[:80], tmp_path/'pack.npz')
    prepare(tmp_path/'pack.npz', tmp_path/'ds', Recipe(tokens='', pgnn='', per_shard=1), workers=1, progress=False)
    code = f"""import sys, sa_toolkit.shards as s
ds = s.open_dataset({str(tmp_path/'ds')!r})
list(ds)
print(len(ds.shards))
s.Dataset.kept = 20
ds = s.open_dataset({str(tmp_path/'ds')!r})
print(sum(len(e.chain) for e in ds), len(ds.shards))"""
    r = subprocess.run([sys.executable, '-c', code], env=ENV, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)))
    assert r.stdout.split() == ['80', str(sum(map(len, example_chains()[:80]))), '20'], r.stderr

def test_another_recipe_or_other_inputs_are_refused(tmp_path):
    save_chains(example_chains('test')[:4], tmp_path/'pack.npz')
    prepare(tmp_path/'pack.npz', tmp_path/'ds', BARE, workers=1, progress=False)
    save_chains(example_chains('test')[:6], tmp_path/'pack.npz')
    with pytest.raises(ValueError, match=r'begun with other inputs \(6 differ, first pack.npz#0\)'): prepare(tmp_path/'pack.npz', tmp_path/'ds', BARE, progress=False)
    for bad, match in ((dict(fractions=(.5, .5, .5)), 'add up to 1'), (dict(identity=30), 'shares between 0 and 1'), (dict(per_shard=0), 'at least one input')):
        with pytest.raises(ValueError, match=match): Recipe(**bad)
    for bad, match in ((dict(filter='resolution(2'), 'filter'), (dict(tokens='4di'), '4di'), (dict(pgnn='gvp'), 'gvp')):
        with pytest.raises(ValueError, match=match): prepare(tmp_path/'pack.npz', tmp_path/'other', Recipe(**dict(pgnn='', tokens='') | bad), progress=False)
        assert not (tmp_path/'other').exists()
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine/thesis.docx').write_text('x')
    with pytest.raises(ValueError, match='is not empty and no dataset'): prepare(tmp_path/'pack.npz', tmp_path/'mine', BARE, progress=False)

@pytest.mark.parametrize('harm, says', [
    (lambda d: (d/'shards/00000.safetensors').unlink(), '00000.safetensors is not what was written'),
    (lambda d: (d/'shards/00000.parquet').write_bytes(b'PAR1'), '00000.parquet cannot be read'),
    (lambda d: (d/'shards/00000.parquet').unlink(), 'Shard 00000 is not there'),
    (lambda d: (d/'manifest.parquet').unlink(), 'There is no manifest'),
    (lambda d: (d/'manifest.parquet').write_bytes(b'PAR1'), 'manifest.parquet is damaged'),
    (lambda d: (d/'plan.json').write_text('{'), 'plan.json is damaged'),
    (lambda d: altered(d, lambda t: t.slice(0, 2)), 'The manifest differs from the shards in'),
    (lambda d: altered(d, resolved_better), 'The manifest differs from the shards in resolution'),
    (lambda d: altered(d, two_sides), 'A cluster is in two splits'),
    (lambda d: shifted(d, 'coords'), 'breaks what must hold of'),
    (lambda d: shifted(d, 'tokens'), 'breaks what must hold of tokens')])
def test_check_finds(tmp_path, harm, says):
    save_chains(example_chains('test')[:2] + example_chains('valid')[:2], tmp_path/'pack.npz')
    out = tmp_path/'ds'
    prepare(tmp_path/'pack.npz', out, Recipe(pgnn=''), workers=1, progress=False)
    harm(out)
    r = subprocess.run([str(SA), 'check', str(out)], capture_output=True, text=True)
    assert r.returncode == 1 and says in r.stderr and 'Traceback' not in r.stderr, r.stderr

def column(t, name, values):
    import pyarrow as pa
    k = t.schema.get_field_index(name)
    return t.set_column(k, t.schema.field(k), pa.array(values, t.schema.field(k).type))

def resolved_better(t): return column(t, 'resolution', [.9]*len(t))

def two_sides(t): return column(column(t, 'cluster', [0]*len(t)), 'split', ['train', 'test']*(len(t)//2))

def altered(out, change): # a manifest that someone edited
    import pyarrow.parquet as pq
    pq.write_table(change(pq.read_table(out/'manifest.parquet')), out/'manifest.parquet')

def shifted(out, what): # all of a shard's arrays of a kind one residue off, hash and all
    import hashlib

    from safetensors.numpy import load_file, save
    from sa_toolkit.shards import read_facts, row_schema, shard_rows, write_parquet
    a = load_file(out/'shards/00000.safetensors')
    data = save(a | {what: np.roll(a[what], 1, 0)})
    (out/'shards/00000.safetensors').write_bytes(data)
    rows, facts = shard_rows(out, ['00000']), read_facts(out/'shards/00000.parquet')
    write_parquet(out/'shards/00000.parquet', rows.to_pylist(), row_schema(), **facts | dict(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))

def test_the_plan_and_the_manifest_name_no_place(pile, whole):
    assert str(pile.parent) not in (whole/'plan.json').read_text() and str(pile).encode() not in (whole/'manifest.parquet').read_bytes()
    assert json.loads((whole/'plan.json').read_text())['inputs'][0].startswith('a/')
