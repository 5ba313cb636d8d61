"""From atoms to positions: one difficulty each, in a file made for it."""
import gzip
from pathlib import Path

import numpy as np
import pytest
from made import atom, backbone, cif, cif_rows, differing, pdb, seqres

import sa_toolkit.structure as structure
from sa_toolkit.core import STATUS, UNNUMBERED
from sa_toolkit.polymers import Polymer
from sa_toolkit.residues import LETTER
from sa_toolkit.structure import read_chain, read_chains

DATA = Path(__file__).parent/'data'/'structures'

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


def test_refused_zero_occupancy_and_nan(tmp_path):
    nan = [line[:30] + f'{"nan":>8}'*3 + line[54:] for line in backbone('GLY', 'A', 4, 3)]
    c = read_chain(pdb(tmp_path, backbone('ALA', 'A', 1, 0), backbone('ALA', 'A', 2, 1, names=('N', 'CA')), backbone('ALA', 'A', 3, 2, occupancy=0), nan))
    assert [STATUS[s] for s in c.status] == ['resolved', 'refused', 'resolved', 'refused']
    assert c.reasons == {1: 'backbone atoms C, O are missing', 3: 'backbone atoms N, CA, C, O have no coordinates'}
    assert np.isnan(c.coords[[1, 3]]).all() and any('1 residue with backbone atoms of zero occupancy' in n for n in c.notes)
    c = read_chain(pdb(tmp_path, seqres('A', 'ALA', 'ALA', 'ALA', 'GLY'), *(backbone('ALA', 'A', k + 1, k) for k in range(3)), nan))
    assert [STATUS[s] for s in c.status] == ['resolved']*3 + ['refused'] and np.isnan(c.coords[3]).all()
    c = read_chain(pdb(tmp_path, backbone('ALA', 'A', 1, 0), backbone('ALA', 'A', 2, 1, names=('CA',))))
    assert c.reasons == {1: 'only CA is there'} and 'A2, A:2: refused (only CA is there)' == c.audit.fate(1)


def test_ligands_waters_and_hydrogens_shift_nothing(tmp_path):
    plain = [backbone('ALA', 'A', 1, 0), backbone('GLY', 'A', 2, 1)]
    bare = read_chain(pdb(tmp_path, seqres('A', 'ALA', 'GLY'), *plain, name='1abc.pdb'))
    extra = [backbone('GLU', 'A', 301, 9, record='HETATM'), [atom('CA', 'CA', 'A', 302, (9, 9, 9), record='HETATM', element='CA'), atom('O', 'HOH', 'A', 303, (8, 8, 8))]]
    hydrogens = [atom('H', 'ALA', 'A', 1, (0, 0, 1)), atom('D', 'GLY', 'A', 2, (0, 0, 1), alt='B', occupancy=.9)]
    full = read_chain(pdb(tmp_path, seqres('A', 'ALA', 'GLY'), plain[0], hydrogens, plain[1], 'TER', *extra, name='1abc.pdb'))
    assert differing(bare, full) == {'notes'} and full.notes[-1] == 'taken for ligands, since they follow the end of the chain (TER): GLU A:301'


def test_missing_seqres_is_said(tmp_path):
    c = read_chain(pdb(tmp_path, *(backbone('ALA', 'A', n, k) for k, n in enumerate((-1, 0, 1, 7, 8)))))
    assert c.sequence_source == 'observed' and len(c) == 5 and list(c.author_number) == [-1, 0, 1, 7, 8]
    assert 'numbering jumps in an unbroken backbone before A:7' in c.notes and 'no SEQRES' in c.doubts[0]


@pytest.mark.parametrize('jump, apart, filled, said', [(3, 3, 2, '2 residues missing'), (3, 3.7, 2, '2 residues missing'), (3, 5, 0, 'nothing tells how many'), (1, 3, 0, 'nothing tells how many'),
                                                       (3, 1, 0, 'jumps in an unbroken'), (51, 9, 50, '50 residues missing'), (52, 9, 0, 'nothing tells how many')])
def test_a_gap_needs_numbers_and_geometry(tmp_path, jump, apart, filled, said): # `apart` in residues of this backbone, 3.2 Å each
    lines = [backbone('ALA', 'A', 1, 0), backbone('GLY', 'A', 2, 1), backbone('TRP', 'A', 2 + jump, 1 + apart), backbone('SER', 'A', 3 + jump, 2 + apart)]
    for path in (pdb(tmp_path, *lines), cif(tmp_path, cif_rows(*lines)), cif(tmp_path, cif_rows(*lines, seq={}), name='untied.cif')):
        c = read_chain(path)
        assert c.sequence == 'AG' + 'X'*filled + 'WS' and c.author_number.tolist() == [1, 2, *range(3, 3 + filled), 2 + jump, 3 + jump] and c.sequence_source == 'observed'
        assert any(said in n and n.endswith(f'A:{2 + jump}') for n in c.notes + c.doubts) and (c.status == STATUS.index('unresolved')).sum() == filled


def test_sequence_ids_count_gaps_better_than_author_numbers(tmp_path):
    lines = [backbone('ALA', 'A', 5, 0), backbone('TRP', 'A', 20, 4)]
    c = read_chain(cif(tmp_path, cif_rows(*lines, seq={5: 1, 20: 5})))
    assert c.sequence == 'AXXXW' and c.author_number.tolist() == [5, *[UNNUMBERED]*3, 20]


def test_atoms_without_coordinates_leave_the_numbers_to_decide(tmp_path):
    c = read_chain(pdb(tmp_path, backbone('ALA', 'A', 1, 0), backbone('GLY', 'A', 2, 1, names=('CB',)), backbone('SER', 'A', 4, 3)))
    assert c.sequence == 'AGXS' and c.reasons == {1: 'backbone atoms N, CA, C, O are missing'}


def test_seqres_that_contradicts_the_atoms(tmp_path):
    atoms = [backbone('ALA', 'A', k, k) for k in range(12)]
    c = read_chain(pdb(tmp_path, seqres('A', *['ALA']*5, 'TRP', *['ALA']*6), *atoms))
    assert c.sequence == 'AAAAAWAAAAAA' and c.resolved.all() and c.doubts == ('1 residue unlike SEQRES, which is kept: A:5',)
    c = read_chain(pdb(tmp_path, seqres('A', *['TRP']*12), *atoms))
    assert c.sequence == 'A'*12 and c.sequence_source == 'observed' and any('do not fit SEQRES' in n for n in c.doubts)


@pytest.mark.parametrize('before', [2, 3, 4])
def test_where_numbers_tell_nothing_bonds_do(tmp_path, before): # MK AAAA GH, of which two residues are missing at the break
    full = ['MET', 'LYS', 'ALA', 'ALA', 'ALA', 'ALA', 'GLY', 'HIS']
    seen = [k for k in range(8) if k not in (before, before + 1)]
    c = read_chain(pdb(tmp_path, seqres('A', *full), *(backbone(full[k], 'A', 1 + i, k) for i, k in enumerate(seen))))
    assert np.flatnonzero(c.resolved).tolist() == seen and c.sequence == 'MKAAAAGH'


@pytest.mark.parametrize('sequence, numbers, names, places', [('MHHHHHHGSGSGSKL', (110, 111), ('GLY', 'SER'), (7, 8)), ('AAAAA', (3, 4), ('ALA', 'ALA'), (2, 3)), ('AAAAA', (13, 14), ('ALA', 'ALA'), (0, 1))])
def test_a_place_that_is_not_the_only_one_is_a_doubt(tmp_path, sequence, numbers, names, places):
    full = [next(k for k, v in LETTER.items() if v == x) for x in sequence]
    path = pdb(tmp_path, seqres('A', *full), *(backbone(r, 'A', n, k) for k, (n, r) in enumerate(zip(numbers, names, strict=True))))
    c = read_chain(path)
    assert tuple(np.flatnonzero(c.resolved)) == places and c.sequence == sequence
    assert c.doubts == (f'2 residues could also stand elsewhere in SEQRES: A:{numbers[0]}, A:{numbers[1]}',)
    with pytest.raises(ValueError, match='refused in strict mode: 2 residues could also stand elsewhere'): read_chain(path, strict=True)


@pytest.mark.parametrize('listed, places, doubts', [((11, 12, 15), [2, 3], 0), ((11, 14, 15), [1, 2], 0), ((11, 12), [0, 1], 1)])
def test_remark_465_settles_where_residues_stand(tmp_path, listed, places, doubts):
    seen = [n for n in range(11, 16) if n not in listed][:2]
    remark = [f'REMARK 465     ALA A  {n:4}' for n in listed]
    c = read_chain(pdb(tmp_path, remark, seqres('A', *['ALA']*5), *(backbone('ALA', 'A', n, k) for k, n in enumerate(seen))))
    assert np.flatnonzero(c.resolved).tolist() == places and len(c.doubts) == doubts


def test_residues_at_a_gap_that_numbers_do_not_measure(tmp_path): # M K A A A G, of which one A was seen, bonded to nothing
    seen = [('MET', 1, 0), ('LYS', 2, 1), ('ALA', 30, 4), ('GLY', 50, 8)]
    c = read_chain(pdb(tmp_path, seqres('A', 'MET', 'LYS', 'ALA', 'ALA', 'ALA', 'GLY'), *(backbone(r, 'A', n, k) for r, n, k in seen)))
    assert c.doubts == ('1 residue could also stand elsewhere in SEQRES: A:30',) and c.resolved[[0, 1, 5]].all()


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
    (tmp_path/'1a8o.cif').write_text('data_1A8O\n' + table + entity + '#\n')
    assert differing(read_chain(tmp_path/'1a8o.cif'), whole) == {'source', 'method', 'resolution', 'r_free', 'r_work', 'date'}




def test_microheterogeneity_ties_go_to_the_first_letter(tmp_path):
    mixed = [backbone(n, 'A', 2, 1, alt=a, occupancy=.5) for a, n in (('A', 'THR'), ('B', 'ALA'))]
    c = read_chain(pdb(tmp_path, backbone('GLY', 'A', 1, 0), *mixed))
    assert c.sequence == 'GT' and any('microheterogeneity at A:2: THR' in n for n in c.notes)


def test_letters_of_rare_residues(tmp_path):
    c = read_chain(pdb(tmp_path, *(backbone(n, 'A', k + 1, k) for k, n in enumerate(['SEC', 'PYL', 'UNK', 'ASX', 'HIE', 'DAL', 'MSE', 'CRO']))))
    assert c.sequence == 'UOXBHAMX' and c.modified == {5: 'DAL', 6: 'MSE', 7: 'CRO'}
    assert [c.audit.parent(k) for k in c.modified] == ['DAL → ALA', 'MSE → MET', 'CRO → parent unknown']
    assert c.audit.objections[0] == 'residues without a letter: A:3 UNK, A:8 CRO'


def test_atoms_say_which_form_of_a_residue_was_seen(tmp_path):
    c = read_chain(pdb(tmp_path, seqres('A', 'MET', 'MSE', 'SER'), backbone('MSE', 'A', 1, 0), backbone('MET', 'A', 2, 1), backbone('UNK', 'A', 3, 2)))
    assert c.sequence == 'MMX' and c.modified == {0: 'MSE'} and not c.doubts


def test_names_that_no_dictionary_has(tmp_path):
    lines = [backbone('ALA', 'A', 1, 0), backbone('Q?9', 'A', 2, 1), backbone('GLY', 'A', 3, 2)]
    c = read_chain(pdb(tmp_path, *lines))
    assert c.sequence == 'AXG' and c.resolved.all() and c.modified == {1: 'Q?9'} # a force field's residue
    c = read_chain(pdb(tmp_path, lines[0], backbone('Q?9', 'A', 2, 1, record='HETATM'), lines[2]))
    assert c.sequence == 'AXG' and not c.resolved[1] and any(n.startswith('taken for ligands') and n.endswith('Q?9 A:2') for n in c.doubts)
    c = read_chain(pdb(tmp_path, *lines, [atom('C1', 'LIP', 'A', 9, (50, 0, 0))]))
    assert c.sequence == 'AXG' and 'left out of the chain, not amino acids: LIP A:9' in c.notes


def test_nucleotides(tmp_path):
    dna = [[atom(n, 'DG', 'B', k, (9*k, 20, 0)) for n in ("P", "C1'", "N9")] for k in (1, 2, 3)]
    protein = [backbone('ALA', 'A', 1, 0), backbone('GLY', 'A', 2, 1)]
    chain, = read_chains(pdb(tmp_path, seqres('A', 'ALA', 'GLY', 'DG'), *protein, *dna, backbone('SER', 'B', 4, 12)))
    assert chain.sequence == 'AGX' and "chain 'B' skipped: nucleic acid" in chain.notes # guanine is not glycine, and one serine makes no protein of DNA
    with pytest.raises(ValueError, match='no protein chain .it holds nucleic acid'): read_chains(pdb(tmp_path, *dna))


@pytest.mark.parametrize('mark', [('MODEL        1', 'ENDMDL', 'MODEL        2'), ('', 'END', ''), ('', 'ENDMDL', '')])
def test_the_first_model_counts(tmp_path, mark):
    first, second = ([backbone('ALA', 'A', 1, k), backbone('GLY', 'A', 2, k + 1)] for k in (0, 7))
    c = read_chain(pdb(tmp_path, mark[0], *first, mark[1], mark[2], *second, 'ENDMDL'))
    assert len(c) == 2 and c.coords[0, 0, 0] == 0 and 'the first of 2 models' in c.notes and len(c.doubts) == 1


def test_a_cyclic_peptide_is_a_chain(tmp_path):
    turn = lambda k, x, y: (np.cos(2*np.pi*(k + x/3.2)/8)*(4.2 + y), np.sin(2*np.pi*(k + x/3.2)/8)*(4.2 + y), 0)
    place = dict(N=(0, 0), CA=(1.2, .5), C=(2.2, 0), O=(2.2, 1.2), CB=(1.2, 1.5))
    names = ['GLY', 'ALA', 'SER', 'GLY', 'ALA', 'SER', 'PRO', 'TRP']
    c = read_chain(pdb(tmp_path, seqres('A', *names), *([atom(n, r, 'A', k + 1, turn(k, *place[n])) for n in place] for k, r in enumerate(names))))
    assert c.sequence == 'GASGASPW' and c.resolved.all() and np.linalg.norm(c.coords[-1, 2] - c.coords[0, 0]) < 2 and not c.audit.objections


def test_chain_names(tmp_path):
    lines = [backbone('ALA', 'A', 1, 0), backbone('GLY', 'A', 2, 1)]
    blank = read_chain(pdb(tmp_path, [x[:21] + ' ' + x[22:] for g in lines for x in g]))
    assert blank.author_chain == '' and blank.id == 'MADE' and str(blank.label(0)) == ':1' and blank.sequence == 'AG'
    two = read_chain(pdb(tmp_path, [x[:20] + 'BA' + x[22:] for g in lines for x in g], *lines), 'BA')
    assert two.id == 'MADE_BA' and two.sequence == 'AG'
    c = read_chain(cif(tmp_path, cif_rows(*lines, label='AAAA', chain='heavy-1'), {'1': ['ALA', 'GLY', 'SER']}), 'heavy-1')
    assert (c.author_chain, c.label_chain, c.id, c.sequence) == ('heavy-1', 'AAAA', 'MADE_heavy-1', 'AGS')
    c = read_chain(cif(tmp_path, cif_rows(*lines, label='.', chain='B'))) # as simulation programs write it
    assert (c.author_chain, c.label_chain, c.sequence) == ('B', 'B', 'AG')


def test_large_and_unusual_numbers(tmp_path):
    lines = [backbone('ALA', 'A', 9999, 0), [x[:22] + 'A000' + x[26:] for x in backbone('GLY', 'A', 0, 1)]]
    lines = [x[:6] + serial + x[11:] for g in lines for x, serial in zip(g, ['*****', 'A0000', '99999', '     ', '   -1'])]
    c = read_chain(pdb(tmp_path, lines))
    assert c.author_number.tolist() == [9999, 10000] and not c.notes
    c = read_chain(cif(tmp_path, cif_rows(*(backbone('ALA', 'A', n, k) for k, n in enumerate((-1, 0, 1))), seq={-1: 1, 0: 2, 1: 3}), {'1': ['ALA']*3}))
    assert c.author_number.tolist() == [-1, 0, 1] and c.resolved.all()


def test_empty_occupancy_and_b_factor(tmp_path):
    c = read_chain(pdb(tmp_path, [x[:54] for x in backbone('ALA', 'A', 1, 0)], backbone('GLY', 'A', 2, 1)))
    assert c.sequence == 'AG' and c.resolved.all() and np.isnan(c.confidence[0]) and c.confidence[1] == 10 and not c.notes


def test_ter_where_the_numbering_jumps_ends_no_chain(tmp_path):
    lines = [backbone('ALA', 'A', 1, 0), 'TER', backbone('GLY', 'A', 8, 1), 'TER', backbone('SER', 'A', 9, 2), backbone('GLU', 'A', 20, 9, record='HETATM')]
    c = read_chain(pdb(tmp_path, *lines))
    assert c.sequence == 'AGS' and c.resolved.all()


def test_several_molecules_under_one_name(tmp_path):
    once = [backbone(n, 'A', k + 1, k) for k, n in enumerate(['ALA', 'GLY', 'SER', 'THR']*5)]
    with pytest.raises(ValueError, match="Chain 'A' of made.pdb lists 20 of its 20 residues twice"): read_chain(pdb(tmp_path, *once, 'TER', *once))
    c = read_chain(pdb(tmp_path, *once, once[3]))
    assert len(c) == 20 and '1 residue listed twice, of which the first counts: A:4' in c.doubts


def test_chains_that_the_sequence_tables_leave_out(tmp_path):
    rows = cif_rows(backbone('ALA', 'A', 1, 0), backbone('GLY', 'A', 2, 1)) + cif_rows(backbone('SER', 'B', 1, 9), backbone('TRP', 'B', 2, 10), label='B', chain='B', entity='2')
    a, b = read_chains(cif(tmp_path, rows, {'1': ['ALA', 'GLY']}))
    assert (a.sequence, a.sequence_source, b.sequence, b.sequence_source) == ('AG', 'SEQRES', 'SW', 'observed')


def test_sequence_ids_that_contradict_the_sequence(tmp_path):
    full = ['MET', 'ALA', 'GLY', 'SER', 'TRP', 'HIS']
    lines = [backbone(n, 'A', k + 2, k) for k, n in enumerate(full[1:])]
    c = read_chain(cif(tmp_path, cif_rows(*lines, seq={k: k - 1 for k in range(9)}), {'1': full}))
    assert c.sequence == 'MAGSWH' and c.resolved.tolist() == [False] + [True]*5 and any('contradict' in n for n in c.doubts)
    c = read_chain(cif(tmp_path, cif_rows(*lines, seq={6: '.'}), {'1': full}))
    assert c.resolved.tolist() == [False] + [True]*4 + [False] and '5 atoms of the chain without a place in SEQRES, left out' in c.doubts


def test_strict_names_the_chain_and_the_way_out(tmp_path):
    good = [backbone('MSE', 'A', 1, 0), backbone('GLY', 'A', 2, 1, alt='A', occupancy=.5), backbone('GLY', 'A', 2, 1, alt='B', occupancy=.5)]
    assert read_chain(pdb(tmp_path, seqres('A', 'MSE', 'GLY', 'SER'), *good), strict=True).sequence == 'MGS' # modified, split and unresolved residues are no reason
    for lines, why in (([*good], 'no SEQRES'), ([seqres('A', 'MSE', 'GLY', 'UNK'), *good], 'without a letter: A:. UNK'), ([seqres('A', 'MSE', 'GLY', 'SER'), *good, backbone('SER', 'A', 3, 2, names=['CA'])], 'A:3 .only CA is there'),
                       ([seqres('A', *['ALA']*9, 'GLY'), *(backbone('ALA', 'A', k, k) for k in range(10))], 'unlike SEQRES')):
        path = pdb(tmp_path, *lines)
        with pytest.raises(ValueError, match=f'^MADE_A of made.pdb is refused in strict mode: .*{why}.*Read it without strict=True') as e: read_chain(path, strict=True)
        assert '\n' not in str(e.value) and read_chain(path).audit.objections


def test_quality_and_date(tmp_path):
    head = ['HEADER    HYDROLASE                               31-MAR-98   1ABC', 'REMARK   2 RESOLUTION.    1.80 ANGSTROMS.', 'REMARK   3   R VALUE     (WORKING + TEST SET) : 0.170',
            'REMARK   3   R VALUE            (WORKING SET) : 0.168', 'REMARK   3   FREE R VALUE                     : 0.210', 'REMARK   3   FREE R VALUE TEST SET SIZE   (%) : 5.000',
            'REMARK   3   R VALUE            (WORKING SET) : 0.200', 'REMARK   3   FREE R VALUE                     : 0.250']
    c = read_chain(pdb(tmp_path, head, backbone('ALA', 'A', 1, 0)))
    assert (c.id, c.date, c.resolution, c.r_work, c.r_free) == ('1ABC_A', '1998-03-31', 1.8, .168, .21)
    tables = ('loop_\n_refine.pdbx_refine_id\n_refine.ls_d_res_high\n_refine.ls_R_factor_R_work\n_refine.ls_R_factor_R_free\nX-RAY 1.5 0.15 ?\nNEUTRON 2.0 0.2 0.25\n#\n'
              '_pdbx_database_status.recvd_initial_deposition_date 2004-02-30\n#\n')
    c = read_chain(cif(tmp_path, cif_rows(backbone('ALA', 'A', 1, 0)), {'1': ['ALA']}, tables))
    assert (c.resolution, c.r_work, c.r_free, c.date) == (1.5, .15, .25, '')
    assert any('2 refinements' in n for n in c.notes) and any('2004-02-30 cannot be true' in n for n in c.notes)
    c = read_chain(cif(tmp_path, cif_rows(backbone('ALA', 'A', 1, 0)), {'1': ['ALA']}, '_database_PDB_rev.num 1\n_database_PDB_rev.date_original 1982-09-24\n#\n_refine.ls_d_res_high none\n#\n'))
    assert c.date == '1982-09-24' and np.isnan(c.resolution)


@pytest.mark.parametrize('name, date, work', [('1A8O.cif.gz', '1998-03-27', .215), ('1A8O.pdb.gz', '1998-03-27', .215), ('3JQH.cif.gz', '2009-09-06', .1936), ('3jqh.bcif.gz', '2009-09-06', .1936)])
def test_quality_of_real_entries(name, date, work):
    c = read_chain(DATA/name)
    assert c.date == date and c.r_work == work and c.r_free > c.r_work
