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

import sa_toolkit.prepare as prep
from sa_toolkit.core import asset, example_chains, save_chains
from sa_toolkit.check import check
from sa_toolkit.plan import Recipe
from sa_toolkit.prepare import prepare, run_ray
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
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    for k in range(20):
        p = subprocess.Popen(command(pile, out, '--per-shard', '1'), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while k % 4 and p.poll() is None and len(list(out.glob('shards/[0-9]*.parquet'))) <= len(seen): time.sleep(.01) # three of four once work goes on, however slow the machine
        time.sleep(rng.uniform(0, .5 if k % 4 else 4))
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
    monkeypatch.setattr(prep, 'write_shard', lambda *a, **k: full())
    monkeypatch.setattr(prep, 'write_manifest', lambda *a, **k: full())
    with pytest.raises(OSError, match=r'disk full .*0 of \d+ shards are whole and kept: free some space'): prepare(asset('structures'), tmp_path/'ds', BARE, workers=1, progress=False)

def test_a_dead_worker_is_a_sentence(monkeypatch, tmp_path):
    save_chains(example_chains('test')[:4], tmp_path/'pack.npz')
    def engine(jobs, workers):
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(1) as pool:
            yield pool.submit(prep.attempt, jobs[0]).result()
            yield pool.submit(os._exit, 9).result()
    with pytest.raises(RuntimeError, match=r'died; 1 of 2 shards are whole and kept \(2 chains can be read\): .*fewer --workers'): prepare(tmp_path/'pack.npz', tmp_path/'ds', BARE, engine=engine, progress=False)

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

def test_another_recipe_or_other_inputs_are_refused(tmp_path):
    save_chains(example_chains('test')[:4], tmp_path/'pack.npz')
    prepare(tmp_path/'pack.npz', tmp_path/'ds', BARE, workers=1, progress=False)
    save_chains(example_chains('test')[:6], tmp_path/'pack.npz')
    with pytest.raises(ValueError, match=r'begun with other inputs \(2 differ, first pack.npz#4\)'): prepare(tmp_path/'pack.npz', tmp_path/'ds', BARE, progress=False)
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
    (lambda d: two_sides(d), 'A cluster is in two splits'),
    (lambda d: shifted(d), 'breaks what must hold of')])
def test_check_finds(tmp_path, harm, says):
    save_chains([*example_chains('test')[:2]]*1 + example_chains('valid')[:2], tmp_path/'pack.npz')
    out = tmp_path/'ds'
    prepare(tmp_path/'pack.npz', out, Recipe(pgnn=''), workers=1, progress=False)
    harm(out)
    r = subprocess.run([str(SA), 'check', str(out)], capture_output=True, text=True)
    assert r.returncode == 1 and says in r.stderr and 'Traceback' not in r.stderr, r.stderr

def two_sides(out):
    import pyarrow as pa
    import pyarrow.parquet as pq
    t = pq.read_table(out/'manifest.parquet')
    t = t.set_column(t.schema.get_field_index('cluster'), 'cluster', pa.array([0]*len(t))).set_column(t.schema.get_field_index('split'), 'split', pa.array(['train', 'test']*(len(t)//2)))
    pq.write_table(t.replace_schema_metadata(pq.read_schema(out/'manifest.parquet').metadata), out/'manifest.parquet')

def shifted(out): # all tokens one residue off, hash and all
    import hashlib

    from safetensors.numpy import load_file, save
    from sa_toolkit.shards import read_facts, row_schema, shard_rows, write_parquet
    a = load_file(out/'shards/00000.safetensors')
    data = save(a | dict(coords=np.roll(a['coords'], 1, 0)))
    (out/'shards/00000.safetensors').write_bytes(data)
    rows, facts = shard_rows(out, ['00000']), read_facts(out/'shards/00000.parquet')
    write_parquet(out/'shards/00000.parquet', rows.to_pylist(), row_schema(), **facts | dict(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))

def test_the_plan_and_the_manifest_name_no_place(pile, whole):
    assert str(pile.parent) not in (whole/'plan.json').read_text() and str(pile).encode() not in (whole/'manifest.parquet').read_bytes()
    assert json.loads((whole/'plan.json').read_text())['inputs'][0].startswith('a/')
