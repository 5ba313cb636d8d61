"""Reading structures: real entries in all formats, and small files made to hold one difficulty each."""
import gzip
import threading
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import sa_toolkit.structure as structure
from sa_toolkit.core import STATUS, UNNUMBERED, asset, example_chains
from sa_toolkit.entries import Polymer
from sa_toolkit.structure import read_chain, read_chains

DATA = Path(__file__).parent/'data'/'structures'


def differing(a, b): # names of the fields in which two chains differ
    def same(x, y):
        if isinstance(x, np.ndarray): return x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == 'f')
        return x == y or (x != x and y != y)
    return {f.name for f in fields(a) if not same(getattr(a, f.name), getattr(b, f.name))}


def atom(name, residue, chain, number, xyz, insertion=' ', alt=' ', occupancy=1., record='ATOM', element=None):
    return (f'{record:6}    1  {name:<3}{alt}{residue:>3} {chain}{number:4}{insertion}   ' + ''.join(f'{v:8.3f}' for v in xyz)
            + f'{occupancy:6.2f}{10:6.2f}          {element or name[0]:>2}')


def backbone(residue, chain, number, at, names=('N', 'CA', 'C', 'O', 'CB'), **kw): # one residue whose neighbours are bonded to it
    offset = dict(N=(0, 0, 0), CA=(1.45, 0, 0), C=(2, 1.4, 0), O=(1.5, 2.5, 0), CB=(2, -.8, 1.2))
    return [atom(n, residue, chain, number, np.add(offset[n], (at*3.2, (at % 2)*.1, 0)), **kw) for n in names]


def seqres(chain, *names): return [f'SEQRES {1 + k//13:3} {chain} {len(names):4}  ' + ' '.join(names[k:k+13]) for k in range(0, len(names), 13)]


def pdb(folder, *groups, name='made.pdb'):
    (folder/name).write_text('\n'.join(line for g in groups for line in ([g] if isinstance(g, str) else g)) + '\nEND\n')
    return folder/name


# ---- real entries

def test_1a8o_in_both_formats():
    cif, old = read_chain(DATA/'1A8O.cif.gz'), read_chain(DATA/'1A8O.pdb.gz')
    assert differing(cif, old) == {'source', 'label_chain'}
    assert cif.id == '1A8O_A' and len(cif) == 70 and cif.resolved.all() and cif.sequence_source == 'SEQRES'
    assert cif.sequence == 'MDIRQGPKEPFRDYVDRFYKTLRAEQASQEVKNWMTETLLVQNANPDCKTILKALGPGATLEEMMTACQG'
    assert cif.modified == dict.fromkeys((0, 34, 63, 64), 'MSE') and (cif.status == STATUS.index('modified')).sum() == 4
    assert cif.resolution == 1.7 and cif.r_free == .253 and cif.method == 'X-RAY DIFFRACTION' and cif.confidence_kind == 'B-factor'
    assert cif.author_number[0] == 151 and str(cif.labels[-1]) == 'A:220'
    assert np.allclose(cif.coords[0, 1], [20.255, 33.101, 26.891], atol=1e-4) and not cif.cb_virtual[0]


def test_insertion_codes_keep_their_order():
    chains = {c.author_chain: c for c in read_chains(DATA/'4ZHL.cif.gz')}
    assert {k: (len(c), c.label_chain) for k, c in chains.items()} == {'U': (247, 'A'), 'P': (10, 'B')}
    u = chains['U']
    labels = [str(x) for x in u.labels]
    assert len(set(labels)) == 247 and {'U:37A', 'U:37B', 'U:37C', 'U:37D'} <= set(labels)
    at = labels.index('U:37A')
    assert labels[at-1:at+5] == ['U:37', 'U:37A', 'U:37B', 'U:37C', 'U:37D', 'U:38'] and u.resolved.all()
    bond = np.linalg.norm(u.coords[at-1:at+4, 2] - u.coords[at:at+5, 0], axis=-1)
    assert (bond < 1.5).all()


@pytest.mark.parametrize('name', ['1GBT.cif.gz 1gbt.bcif.gz', '3JQH.cif.gz 3jqh.bcif.gz'])
def test_mmcif_equals_binarycif(name):
    pairs = list(zip(*(read_chains(DATA/n) for n in name.split()), strict=True))
    assert pairs and all(differing(a, b) == {'source'} for a, b in pairs)


def test_3jqh_is_mostly_unresolved_and_mixed_in_two_places():
    c = read_chain(DATA/'3JQH.cif.gz')
    assert len(c) == 167 and c.resolved.sum() == 23 and UNNUMBERED not in c.author_number
    assert sum('microheterogeneity' in n for n in c.notes) == 2 and any('alternate locations' in n for n in c.notes)


def test_four_chains_of_haemoglobin():
    chains = read_chains(DATA/'4hhb.pdb.gz')
    assert [c.id for c in chains] == ['4HHB_A', '4HHB_B', '4HHB_C', '4HHB_D'] and [len(c) for c in chains] == [141, 146, 141, 146]
    assert chains[0].sequence == chains[2].sequence and not np.allclose(chains[0].coords, chains[2].coords)
    assert differing(read_chain(DATA/'4hhb.pdb.gz', 'C'), chains[2]) == set()
    assert any('4 protein chains' in n for n in read_chain(DATA/'4hhb.pdb.gz').notes)
    with pytest.raises(ValueError, match="nothing as chain 'E': its protein chains are 'A', 'B', 'C', 'D'"): read_chain(DATA/'4hhb.pdb.gz', 'E')


def test_dna_is_skipped_and_said():
    chain, = read_chains(DATA/'1LCD.cif.gz')
    assert (chain.author_chain, chain.label_chain, len(chain)) == ('A', 'C', 51)
    assert "chains 'B' (label A), 'C' (label B) skipped: nucleic acid" in chain.notes and 'the first of 3 models' in chain.notes
    by_label = read_chain(DATA/'1LCD.cif.gz', 'C')
    assert differing(chain, by_label) == {'notes'} and any('author chain is A' in n for n in by_label.notes)
    with pytest.raises(ValueError, match=r"a nucleic acid as chain 'B': its protein chains are 'A' \(label C\)"): read_chain(DATA/'1LCD.cif.gz', 'B')


@pytest.mark.parametrize('read', [read_chain, read_chains])
def test_ca_trace_is_refused(read):
    with pytest.raises(ValueError, match=r"Chain 'A' of pdb1ubi_ca.pdb.gz is a Cα-only chain \(76 residues\)"): read(DATA/'pdb1ubi_ca.pdb.gz')


def test_unresolved_stretches_and_virtual_cb():
    for c in read_chains(asset('structures/2XHE.cif.gz')):
        assert 0 < c.resolved.sum() < len(c) and np.array_equal(c.resolved, np.isin(c.status, (0, 1)))
        assert np.array_equal(np.isnan(c.cb).any(-1), ~c.resolved) and np.isfinite(c.confidence[c.resolved]).all()
        glycine = np.array([a == 'G' for a in c.sequence])
        assert c.cb_virtual[glycine & c.resolved].all() and sum(c.audit.counts.values()) == len(c)


# ---- one difficulty each

def test_author_name_wins_over_label():
    p = [Polymer(a, l, np.array([], int), np.array(['ALA']), 'protein') for a, l in (('A', 'X'), ('B', 'A'))]
    entry = structure.Entry('1ABC', '1abc.cif', {}, p, {})
    found, notes = structure._find(entry, 'A')
    assert found is p[0] and notes == ['A is also the label of author chain B; author names win']
    assert structure._find(entry, 'X')[0] is p[0]
    with pytest.raises(ValueError, match=r"'A' \(label X\), 'B' \(label A\)"): structure._find(entry, 'Q')


def test_altlocs_are_taken_whole_and_ties_go_to_the_first_letter(tmp_path):
    both = [backbone('SER', 'A', 2, 1, alt=a, occupancy=o, names=n) for a, o, n in (('A', .4, ('N', 'CA', 'C', 'O')), ('B', .6, ('N', 'CA', 'C', 'O', 'CB')))]
    both[1] = [line[:30] + f'{9:8.3f}' + line[38:] for line in both[1]] # B is elsewhere
    tie = [backbone('SER', 'A', 3, 2 + k, alt=a, occupancy=.5) for k, a in ((7, 'B'), (0, 'A'))]
    c = read_chain(pdb(tmp_path, backbone('ALA', 'A', 1, 0), *both, *tie))
    assert c.sequence == 'ASS' and (c.coords[1, :, 0] == 9).all() and c.coords[2, 0, 0] == pytest.approx(6.4, abs=.01)
    assert '2 residues with alternate locations: highest mean occupancy taken, ties by letter' in c.notes


def test_microheterogeneity_is_one_position(tmp_path):
    c = read_chain(pdb(tmp_path, seqres('A', 'ALA', 'PRO', 'GLY'), backbone('ALA', 'A', 1, 0), backbone('PRO', 'A', 2, 1, alt='A', occupancy=.3),
                       backbone('SER', 'A', 2, 1, alt='B', occupancy=.7), backbone('GLY', 'A', 3, 2)))
    assert c.sequence == 'ASG' and c.resolved.all() and any(n.startswith('microheterogeneity at A:2: SER') for n in c.notes)


def test_modified_residues_and_strangers(tmp_path):
    names = ['MSE', 'SEP', 'DAL', 'SEC', 'ZZ9', 'QQ9', 'CRO']
    lines = [backbone(n, 'A', k + 1, k, record='HETATM') for k, n in enumerate(names)]
    c = read_chain(pdb(tmp_path, 'MODRES 1ABC ZZ9 A    5  THR  MADE UP', seqres('A', 'GLY', *names), *lines))
    assert c.sequence == 'GMSAUTXX' and c.modified == {1: 'MSE', 2: 'SEP', 3: 'DAL', 5: 'ZZ9', 6: 'QQ9', 7: 'CRO'}
    assert [STATUS[s] for s in c.status] == ['unresolved', 'modified', 'modified', 'modified', 'resolved', 'modified', 'modified', 'modified']


def test_incomplete_zero_occupancy_and_nan(tmp_path):
    nan = [line[:30] + f'{"nan":>8}'*3 + line[54:] for line in backbone('GLY', 'A', 4, 3)]
    c = read_chain(pdb(tmp_path, backbone('ALA', 'A', 1, 0), backbone('ALA', 'A', 2, 1, names=('N', 'CA')), backbone('ALA', 'A', 3, 2, occupancy=0), nan))
    assert [STATUS[s] for s in c.status] == ['resolved', 'incomplete', 'resolved'] # nothing was seen of residue 4, and no SEQRES tells of it
    assert np.isnan(c.coords[1]).all() and any('1 residue with backbone atoms of zero occupancy' in n for n in c.notes)
    c = read_chain(pdb(tmp_path, seqres('A', 'ALA', 'ALA', 'ALA', 'GLY'), *(backbone('ALA', 'A', k + 1, k) for k in range(3)), nan))
    assert [STATUS[s] for s in c.status] == ['resolved']*3 + ['unresolved'] and np.isnan(c.coords[3]).all()


def test_ligands_waters_and_hydrogens_shift_nothing(tmp_path):
    plain = [backbone('ALA', 'A', 1, 0), backbone('GLY', 'A', 2, 1)]
    bare = read_chain(pdb(tmp_path, seqres('A', 'ALA', 'GLY'), *plain, name='1abc.pdb'))
    extra = [backbone('GLU', 'A', 301, 9, record='HETATM'), [atom('CA', 'CA', 'A', 302, (9, 9, 9), record='HETATM', element='CA'), atom('O', 'HOH', 'A', 303, (8, 8, 8))]]
    hydrogens = [atom('H', 'ALA', 'A', 1, (0, 0, 1)), atom('D', 'GLY', 'A', 2, (0, 0, 1), alt='B', occupancy=.9)]
    full = read_chain(pdb(tmp_path, seqres('A', 'ALA', 'GLY'), plain[0], hydrogens, plain[1], 'TER', *extra, name='1abc.pdb'))
    assert differing(bare, full) == set()


def test_missing_seqres_is_said(tmp_path):
    c = read_chain(pdb(tmp_path, *(backbone('ALA', 'A', n, k) for k, n in enumerate((-1, 0, 1, 7, 8)))))
    assert c.sequence_source == 'observed' and len(c) == 5 and list(c.author_number) == [-1, 0, 1, 7, 8]
    assert any('no SEQRES' in n and 'jumps before A:7' in n for n in c.notes)


def test_seqres_that_contradicts_the_atoms(tmp_path):
    atoms = [backbone('ALA', 'A', k, k) for k in range(12)]
    c = read_chain(pdb(tmp_path, seqres('A', *['ALA']*5, 'TRP', *['ALA']*6), *atoms))
    assert c.sequence == 'AAAAAWAAAAAA' and c.resolved.all() and any('1 residue differ' in n and 'A:5' in n for n in c.notes)
    c = read_chain(pdb(tmp_path, seqres('A', *['TRP']*12), *atoms))
    assert c.sequence == 'A'*12 and c.sequence_source == 'observed' and any('do not fit SEQRES' in n for n in c.notes)


@pytest.mark.parametrize('before', [2, 3, 4])
def test_where_numbers_tell_nothing_bonds_do(tmp_path, before): # MK AAAA GH, of which two residues are missing at the break
    full = ['MET', 'LYS', 'ALA', 'ALA', 'ALA', 'ALA', 'GLY', 'HIS']
    seen = [k for k in range(8) if k not in (before, before + 1)]
    c = read_chain(pdb(tmp_path, seqres('A', *full), *(backbone(full[k], 'A', 1 + i, k) for i, k in enumerate(seen))))
    assert np.flatnonzero(c.resolved).tolist() == seen and c.sequence == 'MKAAAAGH'


def test_author_numbers_of_residues_that_remark_465_lists(tmp_path):
    remark = ['REMARK 465     MET A    -1', 'REMARK 465     LYS A    33B']
    c = read_chain(pdb(tmp_path, remark, seqres('A', 'MET', 'ALA', 'LYS', 'GLY'), backbone('ALA', 'A', 1, 0), backbone('GLY', 'A', 40, 5)))
    assert [str(x) for x in c.labels] == ['A:-1', 'A:1', 'A:33B', 'A:40'] and list(c.resolved) == [False, True, False, True]


def test_implausible_quality_is_unknown(tmp_path):
    head = ['REMARK   2 RESOLUTION.    0.00 ANGSTROMS.', 'REMARK   3   FREE R VALUE                     : 0.010']
    c = read_chain(pdb(tmp_path, head, backbone('ALA', 'A', 1, 0)))
    assert np.isnan(c.resolution) and np.isnan(c.r_free) and sum('cannot be true' in n for n in c.notes) == 2


def test_predicted_models_carry_plddt(tmp_path):
    text = gzip.decompress((DATA/'1A8O.cif.gz').read_bytes()).decode()
    (tmp_path/'model.cif').write_text(text + '_ma_qa_metric.id 1\n_ma_qa_metric.name pLDDT\n_ma_qa_metric.type pLDDT\n#\n')
    assert read_chain(tmp_path/'model.cif').confidence_kind == 'pLDDT'
    title = 'TITLE     ALPHAFOLD MONOMER V2.0 PREDICTION FOR A PROTEIN'
    c = read_chain(pdb(tmp_path, title, backbone('ALA', 'A', 1, 0)))
    assert c.confidence_kind == 'pLDDT' and c.method == 'predicted' and c.confidence[0] == 10
    c = read_chain(pdb(tmp_path, title, 'EXPDTA    X-RAY DIFFRACTION', backbone('ALA', 'A', 1, 0)))
    assert c.confidence_kind == 'B-factor' # an experiment that a prediction helped to solve


def test_mmcif_with_atoms_alone(tmp_path):
    text = gzip.decompress((DATA/'1A8O.cif.gz').read_bytes()).decode()
    table = next(t for t in text.split('# \n') if '_atom_site.id' in t)
    (tmp_path/'atoms.cif').write_text('data_1A8O\n' + table)
    bare, whole = read_chain(tmp_path/'atoms.cif'), read_chain(DATA/'1A8O.cif.gz')
    assert bare.sequence_source == 'observed' and bare.sequence == whole.sequence and np.array_equal(bare.coords, whole.coords)
    entity = next(t for t in text.split('# \n') if '_entity_poly_seq.num' in t)
    (tmp_path/'1a8o.cif').write_text('data_1A8O\n' + table + entity)
    assert differing(read_chain(tmp_path/'1a8o.cif'), whole) == {'source', 'method', 'resolution', 'r_free'}


# ---- what cannot be read

def broken(folder):
    cif, bcif = (gzip.decompress((DATA/n).read_bytes()) for n in ('4ZHL.cif.gz', '1gbt.bcif.gz'))
    old = gzip.decompress((DATA/'1A8O.pdb.gz').read_bytes())
    files = {f'cut{k}.cif': cif[:int(len(cif)*k/10)] for k in range(1, 10)} | {f'cut{k}.bcif': bcif[:int(len(bcif)*k/10)] for k in range(1, 10)}
    files |= {'cut.pdb': old[:len(old)//2], 'cut.cif.gz': gzip.compress(cif)[:9000], 'empty.pdb': b'', 'empty.cif.gz': gzip.compress(b''), 'page.cif': b'<!DOCTYPE html>',
              'text.bcif': b'hello', 'ions.pdb': b'HETATM    1 MG    MG A   1      17.366   9.444  50.463  1.00 56.45          MG\n', 'noise.ent': bytes(range(256)), 'dict.cif': b'data_x\n_a.b 1\n'}
    for name, data in files.items():
        (folder/name).write_bytes(data)
        yield name


@pytest.mark.parametrize('read', [read_chain, read_chains])
def test_damaged_files_are_one_sentence(tmp_path, read):
    for name in broken(tmp_path):
        with pytest.raises(ValueError) as e: read(tmp_path/name)
        assert str(e.value).startswith(name) and '\n' not in str(e.value) and str(e.value).endswith('.'), name


def test_unknown_extension_and_names(tmp_path):
    (tmp_path/'a.mol2').write_text('x')
    with pytest.raises(ValueError, match=r'a.mol2: unknown extension; give mmCIF'): read_chain(tmp_path/'a.mol2')
    with pytest.raises(FileNotFoundError, match='is no file'): read_chain(tmp_path/'nothing.cif')
    with pytest.raises(FileNotFoundError, match='is a folder'): read_chain(tmp_path)


def test_gzip_is_known_by_content(tmp_path):
    (tmp_path/'1a8o.pdb').write_bytes((DATA/'1A8O.pdb.gz').read_bytes())
    assert differing(read_chain(tmp_path/'1a8o.pdb'), read_chain(DATA/'1A8O.pdb.gz')) == {'source'}


# ---- ids

class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        name, data = self.path.strip('/'), (DATA/'1gbt.bcif.gz').read_bytes()
        if name == '9st1.bcif.gz': return self.server.stop.wait(5)
        if name not in ('1gbt.bcif.gz', '9cut.bcif.gz'): return self.send_error(404)
        self.server.hits.append(name)
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data if name.startswith('1') else data[:4000])

    def log_message(self, *args): pass


@pytest.fixture
def rcsb(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(('127.0.0.1', 0), Server)
    server.hits, server.stop = [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(structure, '_RCSB', f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setenv('SA_TOOLKIT_CACHE', str(tmp_path/'cache'))
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('name, chain', [('1GBT', None), ('1gbt', None), ('1GBT.A', None), ('1GBT_A', None), ('1GBT:A', None), ('1GBT', 'A')])
def test_an_id_is_downloaded_once(rcsb, name, chain):
    first, again = read_chain(name, chain), read_chain(name, chain)
    assert rcsb.hits == ['1gbt.bcif.gz'] and differing(first, again) == set() and differing(first, read_chain(DATA/'1gbt.bcif.gz')) == set()
    assert [c.id for c in read_chains(name)] == ['1GBT_A']


def test_failed_downloads_name_the_id_and_leave_nothing(rcsb, tmp_path):
    with pytest.raises(ValueError, match='9ABC: the PDB has no such entry'): read_chain('9ABC')
    with pytest.raises(ConnectionError, match='9CUT could not be fetched'): read_chains('9CUT')
    with pytest.raises(ConnectionError, match='9ST1 could not be fetched.*timed out'): structure._fetch('9ST1', timeout=.3)
    assert not [p for p in (tmp_path/'cache').rglob('*') if p.is_file()]


def test_no_network_and_damaged_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(structure, '_RCSB', 'http://127.0.0.1:9')
    monkeypatch.setenv('SA_TOOLKIT_CACHE', str(tmp_path))
    with pytest.raises(ConnectionError, match='9XYZ could not be fetched.*check the network, or give a file instead'): read_chain('9XYZ')
    (tmp_path/'structures').mkdir()
    (tmp_path/'structures/9xyz.bcif.gz').write_bytes(b'rubbish')
    with pytest.raises(ValueError, match='^9XYZ: .*remove .*9xyz.bcif.gz to fetch it again'): read_chain('9XYZ')


def test_example_ids_need_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(structure, '_RCSB', 'http://127.0.0.1:9')
    c = example_chains()[0]
    assert read_chain(c.id).id == c.id and c.id in [x.id for x in read_chains(c.id.split('_')[0])]
