"""Reading structures: real entries in all formats, and files that are damaged."""
import gzip
from pathlib import Path

import numpy as np
import pytest
from made import backbone, cif, cif_rows, differing, pdb, seqres

from sa_toolkit.core import STATUS, UNNUMBERED, asset
from sa_toolkit.structure import read_chain, read_chains

DATA = Path(__file__).parent/'data'/'structures'


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
    assert c.doubts == () # a mixture is no contradiction


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


@pytest.mark.parametrize('kind', ['pdb', 'cif'])
def test_no_cut_passes_silently(tmp_path, kind):
    lines, names = [backbone(n, 'A', k + 1, k) for k, n in enumerate(['ALA', 'GLY', 'SER'])], ['ALA', 'GLY', 'SER', 'TRP']
    path = pdb(tmp_path, seqres('A', *names), *lines) if kind == 'pdb' else cif(tmp_path, cif_rows(*lines), {'1': names})
    whole, text, read = read_chain(path, strict=True), path.read_text(), []
    for k in range(1, len(text)):
        path.write_text(text[:k])
        try: c = read_chain(path)
        except ValueError: continue
        read.append(k)
        assert c.doubts or not differing(c, whole), f'cut after {k} of {len(text)} characters'
        assert text[k-1] in '\n#' or k >= len(text.rstrip()), f'read though cut within a line, after {k} of {len(text)} characters'
    assert len(read) > 10 # cut between rows, a file is read with a doubt


def test_ends_of_whole_files(tmp_path):
    rows, names = cif_rows(backbone('ALA', 'A', 1, 0)), {'1': ['ALA']}
    for end, doubts in (('#\n', 0), ('#', 0), ('\n', 0), ('# the end\n', 0), ('#\r\n', 0), ('', 1)): assert len(read_chain(cif(tmp_path, rows, names, end=end)).doubts) == doubts, end
    for end, doubts in (('END', 0), ('END   \n\n', 0), ('MASTER        0\n', 0), ('TER\n', 1), ('', 1)):
        (tmp_path/'a.pdb').write_text('\n'.join([*seqres('A', 'ALA'), *backbone('ALA', 'A', 1, 0)]) + '\n' + end)
        assert len(read_chain(tmp_path/'a.pdb').doubts) == doubts, end


def test_several_blocks_with_atoms(tmp_path):
    from biotite.structure.io.pdbx import BinaryCIFFile
    one = cif(tmp_path, cif_rows(backbone('ALA', 'A', 1, 0)), {'1': ['ALA']}).read_text()
    two = cif(tmp_path, cif_rows(backbone('TRP', 'A', 1, 0)), {'1': ['TRP']}).read_text().replace('data_made', 'data_other')
    for extra, doubts in ((two, ('the file has 2 blocks with atoms; the first is read',)), ('data_restraints\n_a.b 1\n#\n', ())):
        (tmp_path/'both.cif').write_text(one + extra)
        c = read_chain(tmp_path/'both.cif')
        assert c.sequence == 'A' and c.doubts == doubts
    whole = BinaryCIFFile.read(gzip.open(DATA/'1gbt.bcif.gz'))
    BinaryCIFFile({'a': whole.block, 'b': whole.block}).write(tmp_path/'both.bcif')
    assert read_chain(tmp_path/'both.bcif').doubts == ('the file has 2 blocks with atoms; the first is read',)


def test_an_entry_is_named_after_its_file_unless_its_id_is_one(tmp_path):
    rows = cif_rows(backbone('ALA', 'A', 1, 0))
    for said, id in (('model', 'JOB_MODEL_0_A'), ('?', 'JOB_MODEL_0_A'), ('1ABC', '1ABC_A'), ('pdb_00001abc', '1ABC_A'), ('AF-P69905-F1', 'AF-P69905-F1_A'), ('ma-bak-cepc-0001', 'MA-BAK-CEPC-0001_A')):
        assert read_chain(cif(tmp_path, rows, {'1': ['ALA']}, f'_entry.id {said}\n#\n', name='job_model_0.cif')).id == id
    for said, id in (('XXXX', 'JOB_A'), ('1ABC', '1ABC_A')):
        assert read_chain(pdb(tmp_path, f'HEADER    {"HYDROLASE":40}31-MAR-98   {said}', backbone('ALA', 'A', 1, 0), name='job.pdb')).id == id


def test_unknown_extension_and_names(tmp_path):
    (tmp_path/'a.mol2').write_text('x')
    with pytest.raises(ValueError, match=r'a.mol2: unknown extension; give mmCIF'): read_chain(tmp_path/'a.mol2')
    with pytest.raises(FileNotFoundError, match='is no file'): read_chain(tmp_path/'nothing.cif')
    with pytest.raises(FileNotFoundError, match='is a folder'): read_chain(tmp_path)


def test_gzip_is_known_by_content(tmp_path):
    (tmp_path/'1a8o.pdb').write_bytes((DATA/'1A8O.pdb.gz').read_bytes())
    assert differing(read_chain(tmp_path/'1a8o.pdb'), read_chain(DATA/'1A8O.pdb.gz')) == {'source'}
