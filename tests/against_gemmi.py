"""Read structures with gemmi and compare residue by residue with `read_chains`.

    python tests/against_gemmi.py FOLDER... > table.md

gemmi (https://gemmi.readthedocs.io, MPL-2.0) shares no code with this project. From a file it gives the sequence of each polymer, where each
observed residue belongs in it (`label_seq`: read from mmCIF, aligned by gemmi itself for PDB files), and all atoms. Which conformation of a residue
counts is settled here once more, in plain Python. BinaryCIF, which gemmi does not read, is compared with the mmCIF file of the same entry, and where
there is none, converted with biotite first.
"""
import gzip
import io
import sys
import tempfile
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import gemmi
import numpy as np

from sa_toolkit.structure import read_chains

ATOMS = ('N', 'CA', 'C', 'O', 'CB')


@dataclass
class Residue:
    name: str
    seqid: str
    atoms: dict # name → (x, y, z)


@dataclass
class Row: # what one chain of ours and gemmi's have in common
    file: str
    chain: str
    residues: int = 0
    atoms: int = 0
    worst: float = 0. # Å
    differ: list = field(default_factory=list) # sentences


def mean(x): return round(sum(x)/len(x), 4)


def chosen(group): # gemmi residues at one place → Residue
    "The conformation with the highest mean occupancy of its heavy atoms, ties by letter"
    conformers = defaultdict(list)
    for r in group:
        for a in r:
            if not a.is_hydrogen(): conformers[a.altloc.strip('\0'), r.name].append(a.occ)
    if len({n for _, n in conformers}) > 1: # microheterogeneity
        name = min(conformers, key=lambda k: (-mean(conformers[k]), k))[1]
        conformers = {k: v for k, v in conformers.items() if k[1] == name}
    name = next(n for _, n in conformers)
    letters = {k[0]: v for k, v in conformers.items() if k[0]}
    letter = min(letters, key=lambda k: (-mean(letters[k]), k), default='')
    atoms = {}
    for r in group:
        for a in r:
            if r.name == name and not a.is_hydrogen() and a.altloc.strip('\0') in ('', letter): atoms.setdefault(a.name, a.pos.tolist())
    return Residue(name, str(group[0].seqid), atoms)


def parsed(path): # gemmi Structure
    name = path.name.removesuffix('.gz')
    if not name.endswith('.bcif'): return gemmi.read_structure(str(path))
    from biotite.structure.io.pdbx import BinaryCIFFile, CIFBlock, CIFCategory, CIFColumn, CIFFile
    raw = path.read_bytes()
    block, = BinaryCIFFile.read(io.BytesIO(gzip.decompress(raw) if raw[:2] == b'\x1f\x8b' else raw)).values()
    file = CIFFile()
    file['twin'] = CIFBlock({k: CIFCategory({n: CIFColumn(c.data.array.astype(str), c.mask and c.mask.array) for n, c in cat.items()}) for k, cat in block.items()})
    with tempfile.TemporaryDirectory() as d:
        file.write(Path(d)/'twin.cif')
        return gemmi.read_structure(str(Path(d)/'twin.cif'))


def theirs(path): # chain name → names of its full sequence ([] for none), [(place or None, Residue)], parents
    "Protein chains as gemmi sees them, under the label chain's name in mmCIF and the author's in PDB files"
    st = parsed(path)
    pdb = st.input_format == gemmi.CoorFormat.Pdb
    st.setup_entities()
    if pdb: st.assign_label_seq_id()
    res = {}
    for chain in st[0]:
        for span in chain.subchains():
            entity = st.get_entity_of(span)
            if entity is None or entity.entity_type != gemmi.EntityType.Polymer: continue
            names = entity.full_sequence or [r.name for r in span]
            if sum(gemmi.find_tabulated_residue(n.split(',')[0]).is_amino_acid() for n in names)*2 <= len(names): continue
            groups = defaultdict(list)
            for r in span: groups[str(r.seqid)].append(r)
            found = [(g[0].label_seq, chosen(g)) for g in groups.values()]
            res[chain.name if pdb else span.subchain_id()] = list(entity.full_sequence), found
    return res, {m.res_id.name: m.parent_comp_id for m in st.mod_residues}


def letter(name, parents):
    one = gemmi.find_tabulated_residue(name).one_letter_code.strip().upper()
    return one if one not in ('', 'X') else gemmi.find_tabulated_residue(parents.get(name, '')).one_letter_code.strip().upper() or 'X'


def say(row, what, places):
    if places: row.differ.append(f'{what}: {len(places)} ({", ".join(map(str, places[:4]))}{" …" if len(places) > 4 else ""})')


def compare(c, full, found, parents, file): # our Chain with gemmi's → Row
    "Sequence, places, author numbers and coordinates"
    row, bad = Row(file, c.id), defaultdict(list)
    labels = [f'{"" if n == np.iinfo(np.int32).min else n}{i}' for n, i in zip(c.author_number.tolist(), c.insertion.tolist())]
    if full: place = {p - 1: r for p, r in found if p is not None}
    else: # residues in their order; what was inferred between them has no atoms
        mine = [k for k in range(len(c)) if c.status[k] < 3]
        place = dict(zip(mine, (r for _, r in found)))
        if len(mine) != len(found): row.differ.append(f'residues seen: {len(mine)} here, {len(found)} in gemmi')
    if full and len(full) != len(c): row.differ.append(f'length: {len(c)} here, {len(full)} in gemmi')
    if lost := [r.seqid for p, r in found if full and p is None]: say(row, 'without a place in gemmi', lost)
    for k in range(len(c)):
        r = place.get(k)
        name = r.name if r else full[k].split(',')[0] if full and k < len(full) else 'UNK'
        row.residues += 1
        if c.sequence[k] != letter(name, parents): bad['letter'].append(f'{labels[k]} {name} {c.sequence[k]}, gemmi {letter(name, parents)}')
        if (c.status[k] < 3) != (r is not None): bad['seen'].append(f'{labels[k]} {"only here" if r is None else "only in gemmi"}')
        elif r is not None:
            if r.seqid != labels[k]: bad['author number'].append(f'{labels[k]}, gemmi {r.seqid}')
            positions(c, k, r, row, bad, labels[k])
    for what, places in bad.items(): say(row, what, places)
    return row


def positions(c, k, r, row, bad, label): # adds to row and bad
    "Coordinates of one residue"
    whole = all(a in r.atoms and np.isfinite(r.atoms[a]).all() for a in ATOMS[:4])
    if whole != bool(c.resolved[k]): bad['whole backbone'].append(f'{label} {"only in gemmi" if whole else "only here"}')
    if not whole or not c.resolved[k]: return
    if ('CB' in r.atoms) == bool(c.cb_virtual[k]): bad['CB'].append(label)
    gap = np.abs(np.array([r.atoms[a] for a in ATOMS[:4]]) - c.coords[k])
    if 'CB' in r.atoms and not c.cb_virtual[k]: gap = np.vstack([gap, np.abs(np.array(r.atoms['CB']) - c.cb[k])])
    row.atoms += len(gap)
    row.worst = max(row.worst, gap.max())
    if gap.max() > .0011: bad['coordinates'].append(f'{label} {gap.max():.3f} Å')


def compare_file(path): # list of Row, what was refused here ('' for nothing), our chains
    "All protein chains of one file"
    try: ours, refused = read_chains(path), ''
    except ValueError as e: ours, refused = [], str(e)
    try: his, parents = theirs(path)
    except (RuntimeError, ValueError, IndexError): return [], refused, ours # gemmi cannot read it
    rows = []
    for c in ours:
        key = c.label_chain or c.author_chain
        rows.append(compare(c, *his.pop(key), parents, path.name) if key in his else Row(path.name, c.id, len(c), differ=['no such protein chain in gemmi']))
    return rows + [Row(path.name, key, differ=[f'not read here: {len(found)} residues seen']) for key, (_, found) in his.items()], refused, ours


def explain(row, refused): # cause, who is right; None for a disagreement that nobody has looked at
    "Why a chain is read differently"
    if all(d.startswith('not read here') for d in row.differ) and row.file in refused: return f'refused here on purpose: {refused[row.file]}', 'both'
    if all(d.startswith('letter') for d in row.differ) and all(x.endswith('gemmi X') for d in row.differ for x in d[d.index('(')+1:-1].split(', ')[1::2]):
        return 'gemmi has no letter for this residue; the component dictionary of the PDB, which biotite carries, names its parent', 'here'
    return KNOWN.get(row.file)


KNOWN = {'a_structure.pdb.gz': ('a file made to be broken (Biopython): MODEL and ENDMDL enclose one residue, and the rest belongs to no model. gemmi takes the rest for a second model. '
                                'Here MODEL records alone separate models, so all is one, and the chain carries five doubts', 'neither')}
UNREADABLE = {'1MOM_min.cif.gz': 'a file without atoms; gemmi reads no model from it either', 'pdb1gdr.ent.gz': 'a Cα trace of 1993, whose lines end in the entry’s name and a line number; gemmi takes that for a charge and stops',
              'ions.pdb.gz': 'two magnesium ions', '7nwd.pdb.gz': 'DNA'}


def twins(chains): # id → chains; list of (id, files, what differs)
    "Chains of one name in several files: sequence, status, author numbers and coordinates"
    res = []
    for id, cs in chains.items():
        for a in cs[:-1]:
            b = cs[-1]
            bad = [k for k in ('sequence', 'status', 'author_number', 'insertion', 'coords', 'cb') if not np.array_equal(getattr(a, k), getattr(b, k), equal_nan=k in ('coords', 'cb'))]
            res.append((id, f'{a.source}, {b.source}', ', '.join(bad)))
    return res


def table(head, rows): return '\n'.join(['| ' + ' | '.join(head) + ' |', '|' + '---|'*len(head), *('| ' + ' | '.join(str(x).replace('|', '/') for x in r) + ' |' for r in rows)])


def run(folders): # Markdown, unexplained rows
    "Compare all files below some folders"
    totals, bad, refused, chains = [], [], {}, defaultdict(list)
    for folder in folders:
        paths = sorted(p for p in Path(folder).rglob('*') if p.name.lower().removesuffix('.gz').endswith(('.cif', '.bcif', '.pdb', '.ent')))
        rows = []
        for p in paths:
            r, why, ours = compare_file(p)
            rows += r
            if why: refused[p.name] = why
            for c in ours: chains[c.id].append(c)
        agree = [r for r in rows if not r.differ]
        totals.append((Path(folder).name, len(paths), len(rows), len(agree), sum(r.residues for r in rows), sum(r.atoms for r in rows), f'{max(r.worst for r in rows):.4f} Å'))
        bad += [r for r in rows if r.differ]
    pairs = twins(chains)
    why = [(r, explain(r, refused) or ('NOT EXPLAINED', '?')) for r in bad]
    other = [(f, w, UNREADABLE.get(f, 'NOT EXPLAINED')) for f, w in refused.items() if f not in {r.file for r in bad}]
    text = TEXT.format(version=gemmi.__version__, pairs=len(pairs), equal=sum(not d for *_, d in pairs),
        totals=table(('folder', 'files', 'protein chains', 'that agree', 'residues', 'atoms compared', 'largest difference'), totals),
        bad=table(('file', 'chain', 'what differs', 'why', 'who is right'), [(r.file, r.chain, '; '.join(r.differ), *w) for r, w in why]),
        other=table(('file', 'what is said', 'why'), other), twins=table(('chain', 'files', 'what differs'), [p for p in pairs if p[2]]) if any(p[2] for p in pairs) else 'None differs.')
    return text, text.count('NOT EXPLAINED')


TEXT = """# Against gemmi

Made by `python tests/against_gemmi.py FOLDER...` with gemmi {version}. Each protein chain is read by gemmi and by `read_chains`, and compared residue by residue: letter, place in the
full sequence, seen or not, author number with insertion code, whole backbone or not, and the coordinates of N, CA, C, O and CB. Coordinates are kept to 0.001 Å in single precision.

{totals}

## Disagreements

{bad}

## Files refused, of which gemmi has no protein chain either

{other}

## One entry in several files

{pairs} pairs of chains of the same name come from different files (mmCIF, BinaryCIF and PDB forms of one entry); {equal} are equal in sequence, status, author numbers and coordinates.
gemmi does not read BinaryCIF: those files were converted to mmCIF by biotite for the comparison above, and are compared with their mmCIF twins here.

{twins}
"""


def main(folders):
    warnings.simplefilter('ignore')
    text, unexplained = run(folders)
    print(text, end='')
    return 1 if unexplained else 0


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
