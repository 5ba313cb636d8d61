"Embedding files: killed at any moment, disks that fill, other inputs, and what other libraries read"
import gzip
import json
import multiprocessing as mp
import os
import random
import resource
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import safe_open

import sa_toolkit.embed as emb
from sa_toolkit.core import example_chains
from sa_toolkit.embed import embed, embed_file, read_fasta
from sa_toolkit.plm import load_plm

@pytest.fixture(autouse=True)
def small_groups(monkeypatch): monkeypatch.setitem(emb._group, 'cpu', 512) # residues; many groups to be killed in

@pytest.fixture(scope='module')
def tiny(): return load_plm('tiny')

@pytest.fixture(scope='module')
def fasta(tmp_path_factory):
    path = tmp_path_factory.mktemp('in')/'in.fasta.gz'
    with gzip.open(path, 'wt') as f: f.writelines(f'>{c.id} example\n{c.sequence}\n' for c in example_chains()[:160])
    return path

@pytest.fixture
def whole(fasta, tiny, tmp_path_factory): return embed_file(fasta, tmp_path_factory.mktemp('whole')/'out.safetensors', tiny, progress=False)

def run(fasta, out, plm, limit=None, **kw):
    "The call in a process of its own, forked so that nothing is loaded twice; the file's size is limited by the kernel"
    def child():
        torch.set_num_threads(1)
        if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try: embed_file(fasta, out, plm, progress=False, **kw)
        except KeyboardInterrupt: os._exit(130)
        except OSError as e: sys.exit(str(e))
    p = mp.get_context('fork').Process(target=child)
    p.start()
    return p

def done(out):
    "Groups that the journal says are there"
    try: return json.loads(out.with_name(f'{out.name}.part.json').read_text())['done']
    except FileNotFoundError: return -1

def wait(p, until):
    while p.is_alive() and not until(): time.sleep(.001)

def beside(out): return sorted(f.name.removeprefix(out.name) for f in out.parent.iterdir() if f.name.startswith(out.name))

def test_three_readers_find_what_the_model_says(fasta, whole, tiny):
    records = dict(read_fasta(fasta))
    with safe_open(whole, 'np') as f: opened = {k: f.get_tensor(k) for k in f.offset_keys()}
    by_numpy, by_torch = safetensors.numpy.load_file(whole), safetensors.torch.load_file(whole)
    assert list(opened) == list(records) # the order of the FASTA file
    for k, x in zip(records, tiny.embed(list(records.values()))):
        assert opened[k].dtype == np.float16 and np.allclose(opened[k], x, rtol=2**-11, atol=2e-5)
        assert np.array_equal(by_numpy[k], opened[k]) and np.array_equal(by_torch[k].numpy(), opened[k])

def test_killed_at_any_moment_the_bytes_are_the_same(fasta, whole, tiny, tmp_path, capsys):
    out, log = tmp_path/'out.safetensors', []
    seed = int(os.environ.get('SA_SEED') or random.randrange(10**6))
    rng = random.Random(seed)
    for k in range(12):
        p, before = run(fasta, out, tiny), done(out)
        if k % 3: wait(p, lambda: done(out) > max(before, 0)) # noqa: B023 - else at any moment from the start on
        time.sleep(rng.uniform(0, .05))
        assert not out.exists() or not p.is_alive() or done(out) < 0 # nothing partial has the name
        p.kill()
        p.join()
        log.append(done(out) if not out.exists() else 'whole')
    with capsys.disabled(): print(f'\nkills (seed {seed}), groups there after each: {log}')
    there = [x for x in log if x != 'whole']
    assert there == sorted(there) and max(there) > 0, log
    embed_file(fasta, out, tiny, progress=False)
    assert out.read_bytes() == whole.read_bytes() and beside(out) == ['']

def test_what_is_done_is_not_done_again(fasta, whole, tiny, tmp_path, monkeypatch):
    out, seen, note = tmp_path/'out.safetensors', [], emb._note
    def stop(out, k, size, facts):
        note(out, k, size, facts)
        if k == 5: raise KeyboardInterrupt
    monkeypatch.setattr(emb, '_note', stop)
    with pytest.raises(KeyboardInterrupt): embed_file(fasta, out, tiny, progress=False)
    assert done(out) == 5 and beside(out) == ['.part', '.part.json']
    monkeypatch.setattr(emb, '_note', lambda out, k, size, facts: seen.append(k) or note(out, k, size, facts))
    monkeypatch.setitem(emb._group, 'cpu', 999) # the journal's size counts
    with pytest.raises(FileExistsError, match='begun with other budget. Give'): embed_file(fasta, out, tiny, budget=256, progress=False)
    embed_file(fasta, out, tiny, progress=False)
    assert seen[0] == 6 and np.diff(seen).tolist() == [1]*(len(seen)-1)
    assert out.read_bytes() == whole.read_bytes()

def test_ctrl_c_keeps_what_is_done(fasta, whole, tiny, tmp_path):
    out = tmp_path/'out.safetensors'
    p = run(fasta, out, tiny)
    wait(p, lambda: done(out) > 1)
    os.kill(p.pid, signal.SIGINT)
    p.join()
    assert p.exitcode == 130 and done(out) > 1 and not out.exists()
    embed_file(fasta, out, tiny, progress=False)
    assert out.read_bytes() == whole.read_bytes()

def test_a_full_disk_is_a_sentence_and_loses_nothing(fasta, whole, tiny, tmp_path, capfd):
    "The kernel refuses to write beyond a size"
    out = tmp_path/'out.safetensors'
    p = run(fasta, out, tiny, limit=whole.stat().st_size*3//4)
    p.join()
    err = capfd.readouterr().err
    assert p.exitcode == 1 and 'disk full' in err and 'Free some space and run the same again' in err and 'Traceback' not in err
    assert done(out) >= 0 and not out.exists()
    embed_file(fasta, out, tiny, progress=False)
    assert out.read_bytes() == whole.read_bytes() and beside(out) == ['']

def test_a_disk_too_small_is_said_at_once(fasta, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(OSError, match=r'needs 0.00 GB more, and its disk has 0.00 GB left. Free some space, or write less'): embed_file(fasta, tmp_path/'out.safetensors', tiny)
    assert not list(tmp_path.iterdir())

def test_another_beginning_is_not_touched(fasta, whole, tiny, tmp_path):
    out = tmp_path/'out.safetensors'
    p = run(fasta, out, load_plm('tiny', seed=1))
    wait(p, lambda: done(out) > 1)
    p.kill()
    p.join()
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r'out.safetensors.part was begun with other weights. Give another name, or allow to replace it'): embed_file(fasta, out, tiny, progress=False)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
    embed_file(fasta, out, tiny, overwrite=True, progress=False)
    assert out.read_bytes() == whole.read_bytes() and beside(out) == ['']

def test_another_file_is_replaced_only_when_told(fasta, whole, tiny, tmp_path):
    out = tmp_path/'out.safetensors'
    for other in (b'', b'something else', whole.read_bytes()[:-1]): # the last: a copy that was cut short
        out.write_bytes(other)
        with pytest.raises(FileExistsError, match='is there already, and is no whole safetensors file of ours. Give'): embed_file(fasta, out, tiny, progress=False)
        assert out.read_bytes() == other and beside(out) == ['']
    embed_file(fasta, out, tiny, overwrite=True, progress=False)
    assert out.read_bytes() == whole.read_bytes()
    with pytest.raises(FileExistsError, match='made with other pool, dtype. Give'): embed_file(fasta, out, tiny, 'mean', 'float32', progress=False)

def test_a_damaged_beginning_is_made_anew(fasta, whole, tiny, tmp_path):
    out = tmp_path/'out.safetensors'
    facts = emb._facts(tiny, emb.scan_fasta(fasta)[1], None, 'float16', None)
    emb._note(out, 7, 512, facts)
    for part in (None, b'', whole.read_bytes()[:100]):
        if part is not None: out.with_name('out.safetensors.part').write_bytes(part)
        emb._note(out, 7, 512, facts)
        assert embed_file(fasta, out, tiny, progress=False).read_bytes() == whole.read_bytes()
        out.unlink()
    shutil.copy(whole, out)
    emb._note(out, 7, 512, facts) # killed between the name and the end
    embed_file(fasta, out, tiny, progress=False)
    assert beside(out) == ['']

@pytest.mark.parametrize('text', ['', '[]', '{"done": 7}', '{"done": 7, "group": 512, "facts": '])
def test_a_damaged_journal_is_nothing_done(text, fasta, whole, tiny, tmp_path):
    out = tmp_path/'out.safetensors'
    out.with_name('out.safetensors.part').write_bytes(whole.read_bytes()[:-100])
    out.with_name('out.safetensors.part.json').write_text(text)
    assert embed_file(fasta, out, tiny, progress=False).read_bytes() == whole.read_bytes() and beside(out) == ['']

def test_a_device_that_is_not_there_or_a_folder_is_said_at_once(fasta, tmp_path, monkeypatch):
    monkeypatch.setattr('sa_toolkit.plm.load_plm', lambda *_: pytest.fail('loaded'))
    for device in ('foo', 'meta', 'cuda:99'):
        with pytest.raises(ValueError, match=f"device='{device}' cannot be used here"): embed_file(fasta, tmp_path/'out.safetensors', device=device)
        with pytest.raises(ValueError, match=f"device='{device}' cannot be used here"): embed('MKT', device=device)
    with pytest.raises(IsADirectoryError, match='is a folder. Name a file in it'): embed_file(fasta, tmp_path)

def test_stop_codons(tiny, tmp_path):
    (tmp_path/'in.fasta').write_text('>a\nMKTAY*\n>b\nMKL*\n>c\nMKT\n')
    with pytest.warns(UserWarning, match='2 records of .* ended in a stop codon') as w: out = embed_file(tmp_path/'in.fasta', tmp_path/'out.safetensors', tiny, progress=False)
    assert len(w) == 1 and [len(x) for x in safetensors.numpy.load_file(out).values()] == [5, 3, 3]
    (tmp_path/'in.fasta').write_text('>a\nMK*TAY\n')
    with pytest.raises(ValueError, match=r"'\*' at position 3. A stop codon inside the sequence: is this"): list(read_fasta(tmp_path/'in.fasta'))

def test_a_file_with_a_plain_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'seqs').write_text('>a\nMKT\n')
    assert emb.as_sequences('seqs')[0] == ['MKT'] and emb.as_sequences('M'*5000)[0] == ['M'*5000]

def test_two_runs_do_not_write_one_file(fasta, tiny, tmp_path):
    out = tmp_path/'out.safetensors'
    with emb._open_part(out), pytest.raises(FileExistsError, match='Another run is writing'): embed_file(fasta, out, tiny, progress=False)

def test_numbers_too_large_for_half_precision(fasta, tmp_path):
    plm = load_plm('tiny')
    with torch.no_grad(): plm.model.esm.encoder.emb_layer_norm_after.bias[0] = 1e5
    with pytest.raises(ValueError, match=r'reach 1e\+05, too much for float16: use float32'): embed_file(fasta, tmp_path/'a.safetensors', plm, progress=False)
    embed_file(fasta, tmp_path/'b.safetensors', plm, dtype='float32', pool='mean', progress=False)
    with torch.no_grad(): plm.model.esm.encoder.emb_layer_norm_after.bias[0] = torch.nan
    with pytest.raises(ValueError, match='are not finite: are the weights damaged'): embed_file(fasta, tmp_path/'c.safetensors', plm, progress=False)

def test_names_of_any_kind_and_sequences_beyond_the_limit(tiny, tmp_path):
    records = {'sp|P1|"quoted"': 'MKT'*500, 'é\\b': 'MKTAYIAK', '0': 'XBZU'}
    (tmp_path/'in.fasta').write_text(''.join(f'>{k}\n{s}\n' for k, s in records.items()))
    with safe_open(embed_file(tmp_path/'in.fasta', tmp_path/'out.safetensors', tiny, progress=False), 'pt') as f:
        assert {k: tuple(f.get_tensor(k).shape) for k in f.keys()} == {k: (len(s), tiny.dim) for k, s in records.items()}
    with pytest.raises(ValueError, match='__metadata__, which safetensors keeps'): emb.layout({'__metadata__': 3}, 8, None, 'float16', {})
    with pytest.raises(ValueError, match='more than one safetensors file can name'): emb.layout({f'{k}'*300: 3 for k in range(100000, 160000)}, 8, None, 'float16', {})

def test_a_file_that_changes_under_the_run(tiny, tmp_path, monkeypatch):
    (tmp_path/'in.fasta').write_text('>a\nMKT\n')
    real = emb.scan_fasta
    def scan(path):
        found = real(path)
        path.write_text('>a\nMKTAY\n')
        return found
    monkeypatch.setattr(emb, 'scan_fasta', scan)
    with pytest.raises(ValueError, match='a has changed since the FASTA file was first read'): embed_file(tmp_path/'in.fasta', tmp_path/'out.safetensors', tiny, progress=False)

def test_dna_gets_a_warning(tiny, tmp_path):
    (tmp_path/'in.fasta').write_text('>a\nACGTTGCA\n')
    with pytest.warns(UserWarning, match='letters ACGT alone: if that is DNA or RNA, translate it first'): embed_file(tmp_path/'in.fasta', tmp_path/'out.safetensors', tiny, progress=False)

def test_vectors_keep_no_batch_alive_and_can_be_trained_on(tiny):
    h = embed([c.sequence for c in example_chains()[:8]], tiny, as_torch=True, progress=False)
    assert all(x.untyped_storage().nbytes() == x.numel()*4 and not x.is_inference() for x in h)
