"""Small structure files, made to hold one difficulty each."""
from dataclasses import fields

import numpy as np


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


COLUMNS = ('group_PDB type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id pdbx_PDB_ins_code '
           'Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id pdbx_PDB_model_num').split()


def cif_rows(*lines, label='A', chain='A', entity='1', seq=None, model='1'): # rows of atom_site from lines of a PDB file; seq maps author numbers to sequence ids
    rows = []
    for l in (x for g in lines for x in ([g] if isinstance(g, str) else g)):
        number = l[22:26].strip()
        rows.append([l[:6].strip(), l[76:78].strip(), l[12:16].strip(), l[16].strip() or '.', l[17:20].strip(), label, entity, (seq or {}).get(int(number), number) if seq != {} else '.',
                     l[26].strip() or '?', *(l[c:c+8].strip() for c in (30, 38, 46)), l[54:60].strip(), l[60:66].strip(), number, chain, model])
    return rows


def cif(folder, rows, entities=None, tables='', end='#\n', name='made.cif'): # entities: entity → names of its residues
    text = 'data_made\n#\n' + tables + 'loop_\n' + '\n'.join(f'_atom_site.{c}' for c in COLUMNS) + '\n' + '\n'.join(' '.join(map(str, r)) for r in rows) + '\n'
    if entities:
        text += '#\nloop_\n_entity_poly_seq.entity_id\n_entity_poly_seq.num\n_entity_poly_seq.mon_id\n'
        text += ''.join(f'{e} {k+1} {n}\n' for e, names in entities.items() for k, n in enumerate(names))
    (folder/name).write_text(text + end)
    return folder/name
